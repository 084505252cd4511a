"""The scheduler: its core while one leads, and the way to it. Between two leaders nothing is heard and nothing said."""

from collections.abc import Callable, Sequence
from functools import partial

from services.common.driver import Driver
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.events import Action, Event, ProgramRestored
from services.scheduler.records import Program
from sim.wire import Wire


class Leader:
    """`perform`: takes what the core decides, when it has arrived. `core`: of the leader now, or of the last one."""

    def __init__(self, section: SchedulerSection, wire: Wire, perform: Callable[[Action], None]) -> None:
        self.core = Core(section.limits(), section.load_policy())
        self._section = section
        self._wire = wire
        self._perform = perform
        self._term = 0
        self._driver: Driver[Event, Action] | None = None

    def begin(self) -> None:
        """A term begins. What the last leader had in the state store is read."""
        self.resign()
        restored = [_restored(program) for program in self.core.programs.live()]
        self.core = Core(self._section.limits(), self._section.load_policy())
        self._term += 1
        self._driver = Driver(self.core, self._wire.clock, self._send)
        for event in sorted(restored, key=lambda event: event.started):
            self.feed(event)

    def resign(self) -> None:
        """The leader is gone."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def tell(self, *events: Event) -> None:
        """Send word to the leader, if there is one."""
        if self._driver is not None:
            self._wire.send(partial(self._hear, self._term), events)

    def feed(self, event: Event) -> None:
        """Something reaches the leader."""
        assert self._driver is not None
        self._wire.record(type(event).__name__, getattr(event, "program_id", ""), getattr(event, "call_id", ""))
        self._driver.feed(event)

    def _hear(self, term: int, events: Sequence[Event]) -> None:
        for event in events:
            if term == self._term and self._driver is not None:
                self.feed(event)

    def _send(self, action: Action) -> None:
        self._wire.send(partial(self._arrive, self._term), action)

    def _arrive(self, term: int, action: Action) -> None:
        """Streams break with their leader."""
        if term == self._term and self._driver is not None:
            self._perform(action)


def _restored(program: Program) -> ProgramRestored:
    return ProgramRestored(
        program.program_id,
        program.tenant,
        program.started,
        program.num_finished,
        program.num_restarted,
        program.executed_seconds,
        program.attained_seconds,
        program.waited_seconds,
        program.queue_seconds,
        program.usage,
    )
