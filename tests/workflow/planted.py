"""Planted programs: call logs of programs whose graph is known, told as a gateway would without saying who waits."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver
from services.workflow.structure import Graph, Key, Seen, Structure

BITS = 63


def content(*what: object) -> int:
    """The hash of a message; equal for equal content."""
    return random.Random(repr(what)).getrandbits(BITS)


@dataclass
class Planted:
    """One program that is being told."""

    program_id: str
    named: bool = True
    tenant: str = ""
    workflow: str = ""
    start: float = 0.0
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The truth."""
    ends: dict[str, float] = field(default_factory=dict[str, float])
    messages: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    timed: list[tuple[float, int, Event]] = field(default_factory=list[tuple[float, int, Event]])

    def call(
        self,
        agent: str,
        after: Sequence[str] = (),
        *,
        extends: str = "",
        uses: Sequence[str] = (),
        seconds: float = 1.0,
        prompt: Sequence[int] | None = None,
        step: str = "",
        tools: tuple[str, ...] = (),
    ) -> str:
        """It begins as soon as those `after` which it comes have ended. `extends`: it goes on from that call's prompt
        and output. `uses`: outputs that stand in its prompt."""
        call_id = f"c{len(self.parents)}"
        told = [content("output", self.program_id, other) for other in uses]
        fresh = content("user", self.program_id, call_id)
        if prompt is None and extends:
            prompt = [*self.messages[extends], content("output", self.program_id, extends), *told, fresh]
        elif prompt is None:
            prompt = [content("system", agent), *told, fresh]
        begin = max((self.ends[other] for other in after), default=self.start)
        self.parents[call_id] = tuple(after)
        self.messages[call_id] = list(prompt)
        self.ends[call_id] = begin + seconds
        began = CallBegan(
            self.program_id,
            call_id,
            100 * len(prompt),
            tenant=self.tenant,
            workflow=self.workflow,
            agent=agent if self.named else "",
            step=step,
            messages=prompt,
            message_tokens=[100] * len(prompt),
            roles="s" + "u" * (len(prompt) - 1),
        )
        output = content("output", self.program_id, call_id)
        ended = CallEnded(self.program_id, call_id, True, 100 * len(prompt), 0, 50, 1.0, output, tools)
        self.timed += [(begin, 1, began), (begin + seconds, 0, ended)]
        return call_id

    def events(self) -> list[tuple[float, Event]]:
        """In order of time; ends before what begins at the same moment."""
        ordered = sorted(self.timed, key=lambda entry: entry[:2])
        return [*((when, event) for when, _, event in ordered), (ordered[-1][0], ProgramOver(self.program_id))]


def tell(structure: Structure, events: Iterable[tuple[float, Event]]) -> tuple[dict[tuple[str, str], Seen], list[Key]]:
    """What was said of each call, and of the programs that were over."""
    seen: dict[tuple[str, str], Seen] = {}
    settled: list[Key] = []
    for now, event in events:
        match event:
            case CallBegan():
                seen[event.program_id, event.call_id] = structure.begin(event, now)
            case CallEnded():
                structure.end(event, now)
            case ProgramOver():
                key = structure.over(event.program_id, now)
                assert key is not None
                settled.append(key)
            case _:
                raise AssertionError(event)
    return seen, settled


def tell_all(structure: Structure, plant: Callable[[Planted, random.Random], None], count: int, seed: int = 1) -> Graph:
    """Programs one after the other, each with its own luck; the graph that a next one is expected to take."""
    for number in range(count):
        program = Planted(f"{plant.__name__}/{seed}/{number}", start=float(number))
        plant(program, random.Random(f"{seed}/{number}"))
        tell(structure, program.events())
        structure.check()
    return expected(structure, plant)


def expected(structure: Structure, plant: Callable[[Planted, random.Random], None]) -> Graph:
    """Of a program that has begun its first call."""
    program = Planted(f"{plant.__name__}/next")
    plant(program, random.Random(0))
    tell(structure, program.events()[:1])
    family = structure.family_of(program.program_id)
    assert family is not None
    graph = structure.graph(family)
    assert graph is not None
    return graph
