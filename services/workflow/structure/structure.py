"""Structure: what is learned of programs' shape from their calls alone.

A call's parents and its predecessor are inferred as it begins (lineage.py), its program's family as far as its calls so
far tell (families.py). A program teaches its family when it is over, or when it is the one not heard of for longest and
there are too many. Pure and deterministic. Bounded: programs, calls and messages that are held, roles, families.
An event that is told twice counts once; the end of a call whose beginning was never told is nothing.

Families are of all tenants: people run the same agents, and a law needs samples. A workflow that a tenant names is a
family of its own.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from services.workflow.events import CallBegan, CallEnded, ToolRan
from services.workflow.structure.course import Course
from services.workflow.structure.families import Families
from services.workflow.structure.graph import Graph
from services.workflow.structure.lineage import Lineage, prompt_of
from services.workflow.structure.record import Record
from services.workflow.structure.roles import Roles, size
from services.workflow.structure.seen import Key, Seen

_ALL = ""
"""Where families are told apart by tenant, those of all."""


@dataclass(slots=True, eq=False)
class _Program:
    tenant: str
    workflow: str
    first: tuple[str, str] | None = None
    """Role of its first call, and what that showed."""
    beginning: str = ""
    """The agent of its first call, or how long that call's prompt begins: as much as is known of any program."""
    lineage: Lineage = field(default_factory=Lineage)
    course: Course = field(default_factory=Course)
    kinds: tuple[Key, ...] = ()
    met: set[int] = field(default_factory=set[int])
    units: int = 0
    """What it holds."""


class Structure:
    """Of all programs."""

    def __init__(
        self,
        max_programs: int = 20_000,
        max_calls: int = 500_000,
        max_families: int = 1_000,
        max_beginnings: int = 50_000,
    ) -> None:
        self._max_programs = max_programs
        self._max_units = max_calls
        self._programs: OrderedDict[str, _Program] = OrderedDict()
        self._units = 0
        self._roles = Roles(max_beginnings)
        self._families = Families("family", max_families, broad=True)
        self._variants = Families("variant", max_families, broad=False)
        """Families whose programs' prompts begin alike, too, whatever their agents are called."""

    def begin(self, event: CallBegan, now: float) -> Seen:
        program = self._programs.get(event.program_id)
        if program is None:
            program = self._programs[event.program_id] = _Program(event.tenant, event.workflow)
        else:
            self._programs.move_to_end(event.program_id)
            if (known := program.lineage.find(event.call_id)) is not None and known.seen is not None:
                return known.seen
        record = self._enter(program, event)
        self._place(program, record, event)
        parents = tuple(parent.call_id for parent in record.parents)
        predecessor = record.predecessor.call_id if record.predecessor is not None else ""
        record.seen = Seen(program.kinds, record.role, parents, predecessor, record.turn)
        self._hold(program)
        return record.seen

    def end(self, event: CallEnded, now: float) -> None:
        if (program := self._programs.get(event.program_id)) is not None:
            program.lineage.end(event)

    def tool(self, event: ToolRan, now: float) -> None:
        """Nothing of the structure: what asks for tools is known from the call's end."""

    def over(self, program_id: str, now: float) -> Key | None:
        """The family that the program turned out to be of; None: it is unknown."""
        program = self._programs.pop(program_id, None)
        if program is None:
            return None
        self._units -= program.units
        course, first = program.course, program.first or ("", "")
        tally = course.finish()
        if program.workflow:
            return self._families.settle(program.tenant, program.workflow, first[0], course.calls_of, tally).key
        self._families.settle(_ALL, "", first[0], course.calls_of, tally)
        return self._variants.settle(_ALL, "", first[1], course.shown, tally).key

    def family_of(self, program_id: str) -> Key | None:
        """Of a program that runs: the most special of its kinds."""
        program = self._programs.get(program_id)
        return None if program is None else program.kinds[-1]

    def graph(self, family: Key) -> Graph | None:
        found = self._families.get(family) or self._variants.get(family)
        return None if found is None else found.graph

    def snapshot(self) -> dict[str, Any]:
        """What was learned, as plain data that JSON can tell; not the programs that run."""
        return {
            "roles": self._roles.snapshot(),
            "families": self._families.snapshot(),
            "variants": self._variants.snapshot(),
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Know what a snapshot tells. For a structure that was told nothing yet."""
        self._roles.restore(data["roles"])
        self._families.restore(data["families"])
        self._variants.restore(data["variants"])

    def check(self) -> None:
        """Raises AssertionError if something is wrong."""
        assert len(self._programs) <= self._max_programs
        assert self._units == sum(program.units for program in self._programs.values())
        assert len(self._programs) <= 1 or self._units <= self._max_units
        for program in self._programs.values():
            program.lineage.check()
        self._families.check()
        self._variants.check()

    def _enter(self, program: _Program, event: CallBegan) -> Record:
        lineage = program.lineage
        lineage.make_room()
        prompt = prompt_of(event.messages, event.roles)
        predecessor = lineage.same_thread(event) or lineage.extended(prompt, event.prompt_tokens)
        if predecessor is not None and predecessor.agent == event.agent:
            return lineage.begin(event, prompt, predecessor.role, predecessor.shown, predecessor)
        beginning = self._roles.role(event.messages, event.message_tokens, prompt.num_head, program.met)
        role = event.agent or beginning
        program.beginning = program.beginning or event.agent or size(event.message_tokens, prompt.num_head)
        return lineage.begin(event, prompt, role, event.agent + beginning, predecessor)

    def _place(self, program: _Program, record: Record, event: CallBegan) -> None:
        """The program's course and, if the call tells something new of it, its kinds."""
        course = program.course
        beside = program.lineage.running_siblings(record.parents[0]) if record.parents else 0
        known = record.shown in course.shown
        course.begin(record, beside)
        program.first = program.first or (record.role, record.shown)
        program.workflow = program.workflow or event.workflow
        if known and program.kinds:
            return
        general: tuple[Key, ...] = ((), (program.tenant,), (_ALL, "first", program.beginning))
        if program.workflow:
            program.kinds = (*general, (program.tenant, "workflow", program.workflow))
            return
        families = (self._families.assign(_ALL, course.calls_of), self._variants.assign(_ALL, course.shown))
        program.kinds = (*general, *(family.key for family in families if family is not None))

    def _hold(self, program: _Program) -> None:
        """Count what is held, and let go of what is too much."""
        units = program.lineage.units
        self._units += units - program.units
        program.units = units
        while len(self._programs) > self._max_programs or (self._units > self._max_units and len(self._programs) > 1):
            self.over(next(iter(self._programs)), 0.0)
