"""Which cells there are: the quick grid, which takes minutes, and the whole one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.policies.cell import Cell
from bench.policies.contestants import BASELINE, OURS, Contestant
from bench.policies.workloads import WORKLOADS, Workload

LOADS = (0.5, 0.9, 1.1, 1.5)
BUSY = 1.0
"""Loads beyond it are where all contestants are compared."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations, except that below saturation only some contestants run."""

    workloads: Sequence[Workload]
    loads: Sequence[float]
    contestants: Sequence[Contestant]
    seeds: Sequence[int]

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that what is there early is of everything."""
        for seed in self.seeds:
            for chosen in self.workloads:
                for load in self.loads:
                    for contestant in self.contestants:
                        if load > BUSY or not (contestant.kind == "published" or contestant.workflow):
                            yield Cell(chosen, load, contestant, seed)


def quick(known: dict[str, Contestant]) -> Grid:
    """Three workloads, two loads, the ends of the field."""
    names = (BASELINE, "thunderagent", "continuum", "atlas", f"{OURS} (clairvoyant)", OURS)
    some = [WORKLOADS[name] for name in ("agentcgroup_claude_code", "whowhen_magentic", "coding_heavy_gaps")]
    return Grid(some, (0.5, 1.5), [known[name] for name in names if name in known], range(1, 4))


def whole(known: dict[str, Contestant], num_seeds: int = 5) -> Grid:
    return Grid(list(WORKLOADS.values()), LOADS, list(known.values()), range(1, num_seeds + 1))
