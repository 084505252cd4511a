"""One cell: what is prepared for all contestants of a seed, and what is measured of one.

All programs of a run count, also the first ones, which come to an empty cluster, and the last ones, which leave one:
the limits are of the same set, and pairs have the same share of both.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.policies import cache, workloads
from bench.policies.contestants import Contestant
from bench.policies.workloads import Workload
from services.worker.simulated.cost import load_profile
from sim.experiment import Setup, simulate
from sim.limits import Bound, Capacity, Demand, Paths, Saturation, best_prices, demands, mean_jct, saturation
from sim.outcome import Outcome
from sim.summary import summarise
from sim.trace import Program


@dataclass(frozen=True, slots=True)
class Prepared:
    """The programs of a workload and seed, and what can be said of them before any is run."""

    programs: list[Program]
    saturation: Saturation
    critical_paths: dict[str, float]
    reusable_tokens: int
    """Of prompts, what an endless cache would have."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is simulated."""

    workload: Workload
    load: float
    contestant: Contestant
    seed: int


def prepared(chosen: Workload, seed: int) -> Prepared:
    """From the cache, if it is there."""
    path = cache.place("prepared", (chosen, seed), ".pickle")
    known: Prepared | None = cache.read_pickle(path)
    if known is None:
        known = _prepare(workloads.programs(chosen, seed), capacity(chosen))
        cache.write_pickle(path, known)
    return known


def capacity(chosen: Workload) -> Capacity:
    setup = cluster(chosen)
    sizes = (setup.max_num_seqs, setup.max_num_batched_tokens)
    return Capacity(load_profile(setup.profile), setup.num_workers, setup.kv_tokens, *sizes)


def _prepare(programs: list[Program], engines: Capacity) -> Prepared:
    asked = demands(programs)
    paths = [Paths(program, demand, engines) for program, demand in zip(programs, asked, strict=True)]
    found = saturation(asked, paths, best_prices(asked, engines))
    names = [program.program_id for program in programs]
    critical = dict(zip(names, (path.critical_path for path in paths), strict=True))
    prompts = sum(program.prompt_tokens(call) for program in programs for call in program.calls)
    return Prepared(programs, found, critical, prompts - round(sum(map(_least_prefill, asked))))


def _least_prefill(demand: Demand) -> float:
    own = sum(call.prefill_tokens for call in demand.calls) + sum(piece.tokens for piece in demand.pieces)
    return own + demand.shared_tokens


def limits(chosen: Workload, load: float, seed: int) -> Bound:
    """Of the mean completion time, from the cache if it is there."""
    path = cache.place("limits", (chosen, load, seed), ".json")
    known = cache.read_json(path)
    if known is None:
        known = _limits(chosen, load, seed)
        cache.write_json(path, known)
    return Bound(**known)


def _limits(chosen: Workload, load: float, seed: int) -> dict[str, float]:
    programs, engines = arrived(chosen, load, seed), capacity(chosen)
    asked = demands(programs)
    paths = [Paths(program, demand, engines) for program, demand in zip(programs, asked, strict=True)]
    times = [program.arrival_s or 0.0 for program in programs]
    bound = mean_jct(times, paths, asked, best_prices(asked, engines))
    return {"critical": bound.critical, "srpt": bound.srpt, "busy": bound.busy}


def arrived(chosen: Workload, load: float, seed: int) -> list[Program]:
    """The programs of a seed as they come at that load."""
    known = prepared(chosen, seed)
    return workloads.arrivals(chosen, known.programs, load * known.saturation.programs_per_second, seed)


def measured(cell: Cell) -> dict[str, Any]:
    """What a cell comes to, from the cache if it is there."""
    contestant = cell.contestant
    path = cache.place("cells", (cell.workload, cell.load, contestant, cell.seed), ".json")
    known = cache.read_json(path)
    if known is None:
        some = arrived(cell.workload, cell.load, cell.seed)
        began = time.process_time()
        chosen = setup(cell.workload, contestant)
        if contestant.workflow == "warm":
            chosen = replace(chosen, history=workloads.history(cell.workload, some, cell.seed))
        outcome = simulate(some, chosen, seed=cell.seed)
        known = measure(outcome, prepared(cell.workload, cell.seed))
        known["cpu_seconds"] = round(time.process_time() - began, 2)
        cache.write_json(path, known)
    return known


def cluster(chosen: Workload) -> Setup:
    """That of a workload, under any policy."""
    return Setup(chosen.profile, chosen.num_workers, kv_tokens=chosen.kv_tokens, block_size=chosen.block_size)


def setup(chosen: Workload, contestant: Contestant) -> Setup:
    return replace(
        cluster(chosen),
        policy=contestant.policy,
        scheduler=contestant.scheduler,
        oracle=contestant.oracle,
        direct=contestant.direct,
        router=contestant.router,
        workflow=contestant.workflow,
    )


def measure(outcome: Outcome, known: Prepared) -> dict[str, Any]:
    """Figures of one run: those of `sim.summary`, and what became of what could have been reused."""
    cached = sum(call.cached_tokens for call in outcome.calls)
    return asdict(summarise(outcome, known.critical_paths)) | {
        "recomputed_tokens": max(0, known.reusable_tokens - cached),
        "lost_reuse": max(0.0, 1 - cached / known.reusable_tokens) if known.reusable_tokens else 0.0,
        "makespan": outcome.virtual_seconds,
        "calls": len(outcome.calls),
    }
