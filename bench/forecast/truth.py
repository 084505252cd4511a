"""What came of each forecast: the log is read beside the core, and the truth told once it is out."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from services.common.laws import Quantiles
from services.workflow.events import CallBegan, CallEnded, Event, Foreseen, ProgramOver

QUANTITIES = ("output", "remaining", "returns")


class Outcome(NamedTuple):
    """A forecast and what came; infinite: never."""

    quantity: str
    program_id: str
    law: Quantiles
    value: float


@dataclass(slots=True)
class _Of:
    parents: Mapping[str, tuple[str, ...]]
    """As recorded, not as inferred."""
    laws: dict[tuple[str, str], Quantiles] = field(default_factory=dict[tuple[str, str], Quantiles])
    order: list[str] = field(default_factory=list[str])
    threads: dict[str, str] = field(default_factory=dict[str, str])
    live: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    waiting: dict[str, tuple[float, Quantiles]] = field(default_factory=dict[str, tuple[float, Quantiles]])


class Truth:
    """`parents`: by program and call."""

    def __init__(self, parents: Mapping[str, Mapping[str, tuple[str, ...]]]) -> None:
        self._parents = parents
        self._programs: dict[str, _Of] = {}

    def before(self, event: Event, now: float) -> Iterator[Outcome]:
        """What an event tells of forecasts made before it."""
        match event:
            case CallBegan():
                program = self._programs.setdefault(event.program_id, _Of(self._parents[event.program_id]))
                thread = event.thread or event.agent
                program.order.append(event.call_id)
                program.threads[event.call_id] = thread
                program.live[thread] += 1
                if (waited := program.waiting.pop(thread, None)) is not None:
                    yield Outcome("returns", event.program_id, waited[1], now - waited[0])
            case CallEnded():
                program = self._programs[event.program_id]
                program.live[program.threads[event.call_id]] -= 1
                program.seconds[event.call_id] = event.engine_seconds
                if (law := program.laws.get(("output", event.call_id))) is not None:
                    yield Outcome("output", event.program_id, law, float(event.output_tokens))
            case ProgramOver():
                if (program := self._programs.pop(event.program_id, None)) is not None:
                    yield from _over(event.program_id, program)
            case _:
                pass

    def after(self, foreseen: list[Foreseen], event: Event, now: float) -> None:
        """What was foreseen upon an event; a branch's changed importance is no new forecast."""
        for said in foreseen:
            program = self._programs[said.program_id]
            forecast = said.forecast
            if said.call_id:
                for name, law in (("output", forecast.output), ("remaining", forecast.remaining)):
                    if isinstance(law, Quantiles):
                        program.laws.setdefault((name, said.call_id), law)
            elif isinstance(event, CallEnded) and isinstance(forecast.returns, Quantiles):
                thread = said.thread or said.agent
                if thread == program.threads[event.call_id] and not program.live[thread]:
                    program.waiting[thread] = now, forecast.returns


def _over(program_id: str, program: _Of) -> Iterator[Outcome]:
    longest: dict[str, float] = defaultdict(float)
    for call_id in reversed(program.order):
        seconds = program.seconds.get(call_id, 0.0) + longest[call_id]
        for parent in program.parents[call_id]:
            longest[parent] = max(longest[parent], seconds)
        if (law := program.laws.get(("remaining", call_id))) is not None:
            yield Outcome("remaining", program_id, law, seconds)
    for _, law in program.waiting.values():
        yield Outcome("returns", program_id, law, inf)
