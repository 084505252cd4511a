"""Replays of traces to a Structure that knows neither parents nor threads nor workflows."""

import dataclasses
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.structure.edges import Edges, reduced
from bench.structure.groups import Agreement, agreement, label
from services.worker.simulated.cost import Profile, load_profile
from services.workflow.events import CallBegan, CallEnded, ProgramOver, ToolRan
from services.workflow.structure import Key, Seen, Structure
from sim.history import events_of
from sim.trace import Program

WARM_UP = 20
"""Programs of a set, or of a label, that are learned from before any counts."""
RARE = 0.02
"""Edges of a graph that fewer of an agent's calls take are left out."""


@dataclass
class Replay:
    """One Structure, and what it said of the programs that it was told."""

    agents: bool
    structure: Structure = field(default_factory=Structure)
    profile: Profile = field(default_factory=lambda: load_profile("llama3-8b@a100-tp1"))
    num_calls: int = 0
    seconds: float = 0.0
    """CPU time of the structure."""

    def run(self, program: Program, workflow: str = "") -> tuple[dict[str, Seen], Key | None]:
        """What it said of each call, and of the program once it was over."""
        events = events_of(program, self.profile, 0.0, agents=self.agents)
        seen: dict[str, Seen] = {}
        settled: Key | None = None
        began = time.process_time()
        for now, event in events:
            match event:
                case CallBegan():
                    told = dataclasses.replace(event, workflow=workflow) if workflow else event
                    seen[event.call_id] = self.structure.begin(told, now)
                case CallEnded():
                    self.structure.end(event, now)
                case ToolRan():
                    self.structure.tool(event, now)
                case ProgramOver():
                    settled = self.structure.over(event.program_id, now)
        self.seconds += time.process_time() - began
        self.num_calls += len(seen)
        return seen, settled


def shuffled(programs: Sequence[Program], seed: int = 1) -> list[Program]:
    """In random order."""
    return random.Random(f"structure/{seed}").sample(programs, len(programs))


def edges(programs: Sequence[Program], agents: bool) -> tuple[Edges, float]:
    """Of one set, and microseconds of a call. Of few programs all count."""
    replay, scores = Replay(agents), Edges()
    warm_up = WARM_UP if len(programs) > WARM_UP else 0
    for position, program in enumerate(programs):
        seen, _ = replay.run(program)
        if position >= warm_up:
            scores.add(program, seen)
    return scores, replay.seconds / replay.num_calls * 1e6


@dataclass
class Flows:
    """Between agents, in the graphs of workflows after their first programs."""

    said: int = 0
    right: int = 0
    """Edges of the graphs, and those of them that the workflow's programs take."""
    later: int = 0
    covered: int = 0
    """What later programs do, and what of it goes along the graphs' edges."""


def flows(programs: Sequence[Program]) -> Flows:
    """Of one set; programs of a label are a workflow."""
    labelled: defaultdict[str, list[Program]] = defaultdict(list)
    for program in programs:
        labelled[label(program)].append(program)
    found = Flows()
    for some in labelled.values():
        _add_flows(found, some)
    return found


def _add_flows(found: Flows, programs: Sequence[Program]) -> None:
    replay, key = Replay(agents=True), None
    for program in programs[:WARM_UP]:
        _, key = replay.run(program, workflow="one")
    graph = replay.structure.graph(key) if key is not None else None
    said = set(graph.edges(RARE)) if graph is not None else set[tuple[str, str]]()
    later = Counter(edge for program in programs[WARM_UP:] for edge in _flows(program))
    ever = later + Counter(edge for program in programs[:WARM_UP] for edge in _flows(program))
    found.said += len(said)
    found.right += sum(edge in ever for edge in said)
    found.later += later.total()
    found.covered += sum(number for edge, number in later.items() if edge in said)


def _flows(program: Program) -> list[tuple[str, str]]:
    parents = reduced(program)
    return [(program.calls[int(parent)].agent, call.agent) for call in program.calls for parent in parents[call.id]]


@dataclass(frozen=True)
class Families:
    """Of all sets mixed."""

    running: Agreement
    """By the family that its last call was said to be of, programs after the first ones of their label."""
    settled: Agreement
    """By the family that it turned out to be of, all programs."""
    by_label: dict[str, int]
    """Families that running programs of each label were said to be of."""


def families(programs: Iterable[Program], agents: bool, seed: int = 1) -> Families:
    """Of programs that come in random order, nobody's tenant known."""
    replay, met = Replay(agents), Counter[str]()
    mixed = shuffled(list(programs), seed)
    running: list[tuple[str, Key]] = []
    settled: list[tuple[str, Key | None]] = []
    for program in mixed:
        name = label(program)
        seen, key = replay.run(dataclasses.replace(program, tenant=None))
        last = max(program.calls, key=lambda call: call.id)
        settled.append((name, key))
        if met[name] >= WARM_UP:
            running.append((name, seen[str(last.id)].kinds[-1]))
        met[name] += 1
    by_label = Counter(name for name, _ in set(running))
    return Families(agreement(running), agreement(settled), dict(sorted(by_label.items())))
