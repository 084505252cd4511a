"""The workflow service: its core behind its driver, told what gateways log, whose forecasts the scheduler hears.

Calls name their program, tenant, agent and thread, as far as the scheduler is told of them, and nothing else is
declared. `history`: programs of which it has seen all calls, one after the other, before the run; they are logged as
each would have gone on an engine of its own.
"""

from collections.abc import Callable, Iterable, Sequence

from services.common.clock import Clock, Timer
from services.common.driver import Driver
from services.scheduler.events import CallForeseen
from services.worker.simulated.cost import Profile
from services.workflow.core import Core
from services.workflow.events import Event, Foreseen, ToolRan
from services.workflow.limits import Limits
from sim.history import events_of, merged
from sim.trace import Program
from sim.wire import Wire

_BEGIN = 1e9
"""Unix time at the origin of the run's clock."""
_APART_SECONDS = 10.0
"""Between the starts of programs of the history."""


class Forecaster:
    """`tell`: the way to the scheduler."""

    def __init__(
        self, wire: Wire, tell: Callable[[CallForeseen], None], profile: Profile, history: Sequence[Program]
    ) -> None:
        self.core = Core(Limits())
        self._wire = wire
        self._tell = tell
        self._revision = 0
        self._read(_log(history, profile))
        self._driver: Driver[Event, Foreseen] = Driver(self.core, _Shifted(wire.clock), self._perform)

    def log(self, event: Event) -> None:
        """A gateway logs something."""
        self._wire.send(self._hear, event)

    def _hear(self, event: Event) -> None:
        self._wire.record(type(event).__name__, event.program_id)
        self._driver.feed(event)

    def _perform(self, action: Foreseen) -> None:
        self._revision += 1
        self._tell(
            CallForeseen(
                action.program_id,
                action.thread,
                action.call_id,
                action.forecast,
                self._revision,
                action.valid_seconds,
                action.agent,
            )
        )

    def _read(self, entries: Iterable[tuple[float, Event]]) -> None:
        """What is foreseen meanwhile nobody hears."""
        for at, event in entries:
            while (due := self.core.next_tick()) is not None and due <= at:
                self.core.tick(max(due, 0.0))
            self.core.handle(event, at)


class _Shifted:
    """A clock that shows Unix time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return _BEGIN + self._clock.now()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._clock.call_at(when - _BEGIN, callback)


def _log(history: Sequence[Program], profile: Profile) -> list[tuple[float, Event]]:
    """Of programs that ended before the run; tools are not reported, as in the run."""
    logs = [
        events_of(program, profile, number * _APART_SECONDS, threads=True) for number, program in enumerate(history)
    ]
    entries = [entry for entry in merged(logs) if not isinstance(entry[1], ToolRan)]
    last = entries[-1][0] if entries else 0.0
    return [(_BEGIN + at - last, event) for at, event in entries]
