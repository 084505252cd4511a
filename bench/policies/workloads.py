"""The workloads of the grid: which programs, cut how, on which cluster.

Clusters are four engines with caches so small that they, and not the engines' arithmetic, are what programs compete for
from saturation on, as with long contexts on real ones. Traces are cut to what a simulation of seconds can hold: fewer
programs, of those the ones whose calls are few enough and short enough, and no wait longer than `cap_wait_seconds`.
What is cut is the same for all contestants. Tenants are drawn: six, of very different size.
"""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.policies import synthetic
from bench.policies.synthetic import SHORT
from sim import workload
from sim.trace import Call, Program
from sim.waits import Caps

TENANTS = {"a": 0.35, "b": 0.25, "c": 0.15, "d": 0.1, "e": 0.1, "f": 0.05}


_OTHER_SEEDS = 1000
_MOST_HISTORY = 200


@dataclass(frozen=True, slots=True)
class Workload:
    """What is replayed, and on what."""

    name: str
    programs: int
    kv_tokens: int
    """Per engine."""
    max_tokens: int = 0
    """Only programs whose calls are no longer."""
    most_calls: int = 0
    """Only programs that have no more."""
    cap_wait_seconds: float = 60.0
    block_size: int = 256
    profile: str = "llama3-8b@a100-tp1"
    num_workers: int = 4
    recorded: bool = False
    """Arrivals as in the source, sped up or slowed down to the load; else Poisson."""
    heavy_gaps: bool = False


WORKLOADS = {
    item.name: item
    for item in (
        Workload("weka_claude_code", 46, 220_000, max_tokens=120_000, most_calls=50, cap_wait_seconds=30.0),
        Workload("agentcgroup_claude_code", 54, 120_000, max_tokens=60_000, most_calls=50, cap_wait_seconds=30.0),
        Workload("tau2_sierra", 90, 20_000, max_tokens=12_000, most_calls=30, block_size=128),
        Workload("chatdev_warehouse", 64, 8_000, max_tokens=6_000, cap_wait_seconds=5.0, block_size=64),
        Workload("whowhen_magentic", 56, 24_000, max_tokens=16_000, cap_wait_seconds=10.0, block_size=128),
        Workload("mooncake_conversation", 400, 120_000, max_tokens=60_000, cap_wait_seconds=15.0, recorded=True),
        Workload("tot_gpt4", 64, 12_000, max_tokens=4_000, most_calls=80, block_size=32),
        Workload("coding_heavy_gaps", 80, 240_000, max_tokens=160_000, heavy_gaps=True),
        Workload("mix", 100, 80_000, max_tokens=40_000, most_calls=40, cap_wait_seconds=30.0),
    )
}


def programs(chosen: Workload, seed: int) -> list[Program]:
    """The programs of a seed, without arrivals; with them, where the source's are kept."""
    rng = random.Random(f"policies/{chosen.name}/{seed}")
    match chosen.name:
        case "coding_heavy_gaps":
            found = synthetic.coding(2 * chosen.programs, seed, gap_seconds=10.0, gap_sigma=1.5, contexts=SHORT)
            found = [one for one in found if workload.longest(one) <= chosen.max_tokens][: chosen.programs]
        case "mix":
            return _mix(chosen, seed, rng)
        case name:
            found = _sample(_fitting(name, chosen, chosen.programs), chosen, rng, seed)
    return [dataclasses.replace(program, tenant=_tenant(rng)) for program in found]


def history(chosen: Workload, some: Sequence[Program], seed: int) -> list[Program]:
    """Programs of the kind that are none of `some`, the programs of that seed: what went before them."""
    rng = random.Random(f"history/{chosen.name}/{seed}")
    own = {_original(program) for program in some}
    match chosen.name:
        case "coding_heavy_gaps" | "mix":
            found = programs(chosen, _OTHER_SEEDS + seed)
        case name:
            found = _fitting(name, chosen, 1)
    others = [program for program in found if _original(program) not in own]
    others = rng.sample(others, min(len(others), _MOST_HISTORY))
    if chosen.name == "mix":
        return others
    return [dataclasses.replace(program, tenant=_tenant(rng)) for program in others]


def arrivals(chosen: Workload, some: Sequence[Program], programs_per_second: float, seed: int) -> list[Program]:
    """The programs as they come at that rate."""
    if not chosen.recorded:
        return workload.arrivals(some, programs_per_second, seed)
    first, last = some[0].arrival_s or 0.0, some[-1].arrival_s or 0.0
    moved = [dataclasses.replace(program, arrival_s=(program.arrival_s or 0.0) - first) for program in some]
    return workload.recorded(moved, programs_per_second * (last - first) / (len(some) - 1), seed)


def _fitting(name: str, chosen: Workload, count: int) -> list[Program]:
    """Of a trace set, what is small enough; where that is less than `count`, again with content of its own."""
    caps = Caps(chosen.cap_wait_seconds, chosen.cap_wait_seconds)
    loaded = workload.load(name, caps=caps, max_tokens=chosen.max_tokens)
    found = [program for program in loaded if _few(program, chosen)]
    if len(found) < count:
        rounds = -(-count // len(found))
        loaded = workload.load(name, rounds * len(loaded), caps=caps, max_tokens=chosen.max_tokens)
        found = [program for program in loaded if _few(program, chosen)]
    return [
        dataclasses.replace(program, calls=tuple(_capped(call, chosen.cap_wait_seconds) for call in program.calls))
        for program in found
    ]


def _few(program: Program, chosen: Workload) -> bool:
    return not chosen.most_calls or len(program.calls) <= chosen.most_calls


def _capped(call: Call, most: float) -> Call:
    """Also what is counted from issue to issue."""
    return call if call.gap_s is None else dataclasses.replace(call, gap_s=min(call.gap_s, most))


def _sample(found: list[Program], chosen: Workload, rng: random.Random, seed: int) -> list[Program]:
    if chosen.recorded:  # a stretch of the trace
        stretches = len(found) // chosen.programs
        start = (seed - 1) % stretches * chosen.programs
        return found[start : start + chosen.programs]
    return rng.sample(found, chosen.programs)


def _mix(chosen: Workload, seed: int, rng: random.Random) -> list[Program]:
    """A tenant for each kind of work; the small requests of some beside the long programs of others."""
    shares = {"tau2_sierra": 0.4, "tot_gpt4": 0.2, "agentcgroup_claude_code": 0.2, "whowhen_magentic": 0.2}
    found: list[Program] = []
    for name, share in shares.items():
        count = round(share * chosen.programs)
        some = rng.sample(_fitting(name, chosen, count), count)
        found += [dataclasses.replace(program, tenant=name.split("_")[0]) for program in some]
    rng.shuffle(found)
    return found


def _original(program: Program) -> str:
    """Its name in its source, where it may be there several times here."""
    return program.program_id.split("#")[0]


def _tenant(rng: random.Random) -> str:
    return rng.choices(list(TENANTS), weights=list(TENANTS.values()))[0]
