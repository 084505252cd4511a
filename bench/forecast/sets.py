"""Sets of recorded programs, and one log of all of them."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

from bench.policies import workloads
from services.worker.simulated.cost import load_profile
from services.workflow.events import Event
from sim import history, workload
from sim.trace import Program
from sim.waits import Caps

_CAPS = Caps(3_000.0, 3_000.0)
"""A thread that is away for longer is another program's."""
_SPACING_SECONDS = 120.0
"""Mean, between the starts of two programs: so that many live at once."""


@dataclass(frozen=True, slots=True)
class TraceSet:
    """What is measured of a set."""

    name: str
    grid_seconds: float
    """Of recorded gaps; the truth is anywhere within."""
    gaps: str
    """What the times to a thread's next call are made of; empty: drawn, so they are not measured."""
    most: int = 0
    """Programs; 0: all."""


SETS = (
    TraceSet("weka_claude_code", 0.01, "recorded"),
    TraceSet("agentcgroup_claude_code", 0.01, "recorded"),
    TraceSet("tau2_sierra", 0.01, "tools take no time; the other side's calls, as simulated"),
    TraceSet("chatdev_warehouse", 1.0, "recorded by the second; others' calls as simulated"),
    TraceSet("whowhen_magentic", 0.01, ""),
    TraceSet("mooncake_conversation", 3.0, "recorded on a grid of 3 s, less the simulated call", 4_000),
    TraceSet("tot_gpt4", 0.01, "no waits; others' calls as simulated"),
    TraceSet("coding_heavy_gaps", 0.01, "generated", 300),
)


def programs(chosen: TraceSet, traces: Path) -> list[Program]:
    """All of the set, every wait a number."""
    if chosen.name == "coding_heavy_gaps":
        return workloads.programs(replace(workloads.WORKLOADS[chosen.name], programs=chosen.most), 1)
    found = workload.load(chosen.name, caps=_CAPS, traces=traces)
    return found[: chosen.most] if chosen.most else found


def log(found: list[Program], *, seed: int, declared: bool) -> tuple[list[tuple[float, Event]], set[str]]:
    """Of the programs in random order, started one after the other; and which ones are the last fifth."""
    rng = random.Random(f"forecast/{seed}")
    shuffled = rng.sample(found, len(found))
    profile = load_profile("llama3-8b@a100-tp1")
    histories: list[list[tuple[float, Event]]] = []
    start = 0.0
    for program in shuffled:
        start += rng.expovariate(1.0 / _SPACING_SECONDS)
        histories.append(history.events_of(program, profile, start, declared=declared))
    last = {program.program_id for program in shuffled[int(0.8 * len(shuffled)) :]}
    return history.merged(histories), last
