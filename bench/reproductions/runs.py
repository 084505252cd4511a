"""Simulations of reproductions, remembered by content as the grid's cells are."""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.policies import cache
from bench.policies.comparison import Ratio, ratio
from services.scheduler import placement, policy
from services.worker.simulated.cost import load_profile
from sim.experiment import Setup, simulate
from sim.limits import Capacity, Demand, Paths, best_prices, demands, saturation
from sim.outcome import Outcome
from sim.summary import summarise
from sim.trace import Program

BASELINE: dict[str, Any] = {"direct": True, "policy": "fcfs"}
"""Engines' own FCFS queues behind a router that keeps programs where they are."""


def figures(programs: Sequence[Program], setup: Setup, *, seed: int = 1, concurrency: int = 0) -> dict[str, float]:
    """What `sim.summary` says of a run, and its makespan and seconds per generated token."""
    content = hashlib.sha256(pickle.dumps(programs)).hexdigest()
    path = cache.place("reproductions", (content, setup, seed, concurrency), ".json")
    known: dict[str, float] | None = cache.read_json(path)
    if known is None:
        known = _figures(simulate(programs, setup, seed=seed, concurrency=concurrency), programs, capacity(setup))
        cache.write_json(path, known)
    return known


def capacity(setup: Setup) -> Capacity:
    profile = load_profile(setup.profile)
    kv_tokens = setup.kv_tokens or profile.kv_tokens
    return Capacity(profile, setup.num_workers, kv_tokens, setup.max_num_seqs, setup.max_num_batched_tokens)


def asked(programs: Sequence[Program], cluster: Capacity) -> tuple[list[Demand], list[Paths]]:
    """What the programs ask for, and how soon they can be done."""
    found = demands(programs)
    return found, [Paths(program, demand, cluster) for program, demand in zip(programs, found, strict=True)]


def saturated(programs: Sequence[Program], setup: Setup) -> float:
    """Programs a second at which the cluster is just busy."""
    cluster = capacity(setup)
    found, paths = asked(programs, cluster)
    return saturation(found, paths, best_prices(found, cluster)).programs_per_second


def _figures(outcome: Outcome, programs: Sequence[Program], cluster: Capacity) -> dict[str, float]:
    _, paths = asked(programs, cluster)
    names = [program.program_id for program in programs]
    critical = dict(zip(names, (path.critical_path for path in paths), strict=True))
    tokens = {program.program_id: sum(call.output_tokens for call in program.calls) for program in programs}
    per_token = [one.seconds / tokens[one.program_id] for one in outcome.programs]
    return asdict(summarise(outcome, critical)) | {
        "makespan": outcome.virtual_seconds,
        "seconds_per_token": float(np.mean(per_token)),
        "calls_per_second": len(outcome.calls) / outcome.virtual_seconds,
    }


def over(
    make: Callable[[int], Sequence[Program]],
    setup: Setup,
    base: Setup,
    figure: str = "jct_mean",
    seeds: Sequence[int] = (1, 2, 3),
    concurrency: int = 0,
) -> Ratio:
    """A figure under one set-up over that under another, on the same programs, seed by seed."""
    ours: list[float] = []
    theirs: list[float] = []
    for seed in seeds:
        programs = make(seed)
        ours.append(figures(programs, setup, seed=seed, concurrency=concurrency)[figure])
        theirs.append(figures(programs, base, seed=seed, concurrency=concurrency)[figure])
    return ratio(ours, theirs)


def half_of(claimed: float, value: float) -> bool:
    """Whether at least half of the gain that was claimed of a ratio is seen."""
    return value <= (1 + claimed) / 2


def there(presets: Sequence[str] = (), placements: Sequence[str] = ()) -> str:
    """What of these is not there; empty: all is."""
    missing = [*(set(presets) - set(policy.names())), *(set(placements) - set(placement.names()))]
    return ", ".join(sorted(missing))
