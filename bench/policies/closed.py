"""The rate that a cluster reaches when there is always more to do: saturation as it is measured.

So many programs live at a time; when one ends the next begins (closed loop). The rate is that of the middle three
fifths of all ends, so that neither the first programs, which all begin at once, nor the last ones, which run alone,
count. Of several concurrencies the best counts: too few leave engines idle, too many push each other's contexts out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.policies import cache
from bench.policies.cell import prepared, setup
from bench.policies.contestants import Contestant
from bench.policies.workloads import Workload
from sim import workload
from sim.experiment import simulate

SHARES = (0.5, 1.0, 2.0)
"""Concurrencies, in parts of the programs that live at saturation when none waits."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One contestant in a closed loop over a workload."""

    workload: Workload
    contestant: Contestant
    seed: int = 1


def reached(loop: Loop) -> float:
    """The best rate over the derived saturation."""
    known = prepared(loop.workload, loop.seed)
    rate = known.saturation.programs_per_second
    live = rate * sum(known.critical_paths.values()) / len(known.critical_paths)
    return max(_rate(loop, max(1, round(share * live))) for share in SHARES) / rate


def _rate(loop: Loop, concurrency: int) -> float:
    path = cache.place("closed", (loop, concurrency), ".json")
    known: float | None = cache.read_json(path)
    if known is None:
        programs = workload.at_once(prepared(loop.workload, loop.seed).programs, loop.seed)
        outcome = simulate(programs, setup(loop.workload, loop.contestant), seed=loop.seed, concurrency=concurrency)
        known = middle_rate([program.end for program in outcome.programs])
        cache.write_json(path, known)
    return known


def middle_rate(ends: Sequence[float]) -> float:
    """Ends a second, between the first fifth of them and the last."""
    ordered = sorted(ends)
    first, last = len(ordered) // 5, len(ordered) - 1 - len(ordered) // 5
    return (last - first) / (ordered[last] - ordered[first])
