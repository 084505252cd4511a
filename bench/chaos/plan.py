"""Which faults befall whom, and when: drawn from a seed, so that a run can be had again."""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from bench.chaos import faults
from bench.chaos.faults import Fault

MEAN_PAUSE_SECONDS = 6.0
"""Between the beginnings of two faults: shorter than many of them last, so that faults meet."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault at its time."""

    at: float
    """Seconds from the beginning of the faults."""
    kind: str
    fault: Fault

    @property
    def targets(self) -> list[str]:
        """Whom it befalls, one by one."""
        return self.fault.target.split("+")

    @property
    def until(self) -> float:
        return round(self.at + self.fault.seconds, 1)

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.fault.target}: {self.fault.text}"


def draw(
    seed: int, seconds: float, kinds: Collection[str], pause_seconds: float = MEAN_PAUSE_SECONDS, targets: str = ""
) -> list[Planned]:
    """Faults of these kinds, in order, all healed by `seconds`. Nothing is befallen by two at once.

    `targets`: only those whose names begin so.
    """
    random = Random(seed)
    names = sorted(kinds)
    weights = [faults.load(name).weight for name in names]
    busy: dict[str, float] = {}
    planned: list[Planned] = []
    at = random.expovariate(1 / pause_seconds)
    while at < seconds:
        name = random.choices(names, weights)[0]
        kind = faults.load(name)
        able = [target for target in kind.targets() if target.startswith(targets)]
        if able:
            one = Planned(round(at, 1), name, kind(random.choice(able), random))
            if one.until <= seconds and all(busy.get(target, 0.0) <= one.at for target in one.targets):
                planned.append(one)
                busy |= dict.fromkeys(one.targets, one.until)
        at += random.expovariate(1 / pause_seconds)
    return planned
