"""What must hold in each cell of workload and load, whether it does, and if not, why.

A claim about scheduling says nothing where nothing waits: unless calls queued and caches were full under the baseline,
a busy cell is null. A goal counts as met when the point estimate meets it; the interval is shown beside it. Reasons are
worked out from what was measured: a goal below the limit cannot be met by any scheduler; one below what the clairvoyant
policies come to says that as much; else the reason is what the cell's figures show.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.policies.comparison import Ratio, ratio
from bench.policies.contestants import BASELINE, OURS, Kind
from bench.policies.grid import BUSY

Figures = Mapping[str, Any]
LEAST_WAITING = 1.0
"""Calls that wait, on average over the run: fewer are no queue."""
LEAST_LOST = 0.02
"""Share of reusable tokens that the baseline lost: less, and its caches were not full."""
MOST_OF_BASELINE, MOST_OF_PUBLISHED, MOST_OF_CLAIRVOYANT = 0.5, 0.85, 1.25
IDLE = 0.5
"""Up to this load nothing should be different."""
MOST_TTFT, LEAST_JAIN, MOST_IDLE, MOST_HEAVY = 1.0, 0.9, 1.01, 1.02


@dataclass(frozen=True, slots=True)
class Goal:
    """One claim about one cell."""

    text: str
    value: float
    shown: str
    met: bool
    reason: str = ""


@dataclass(slots=True)
class Verdict:
    """Of a workload at a load."""

    workload: str
    load: float
    null: str = ""
    """Why nothing can be claimed; empty: queues formed and caches were full."""
    goals: list[Goal] = field(default_factory=list[Goal])
    ratios: dict[str, Ratio] = field(default_factory=dict[str, Ratio])
    """Mean JCT over the baseline's, by contestant."""
    best_published: str = ""
    best_clairvoyant: str = ""
    limit: Ratio | None = None
    """The limit over the baseline's mean JCT."""

    @property
    def failing(self) -> list[Goal]:
        return [] if self.null else [goal for goal in self.goals if not goal.met]


def verdict(
    workload: str, load: float, heavy: bool, kinds: Mapping[str, Kind], runs: Mapping[str, Sequence[Figures]]
) -> Verdict:
    """`runs`: by contestant, the figures of each seed, in the same order of seeds."""
    found = Verdict(workload, load)
    base, ours = runs[BASELINE], runs[OURS]
    for name, figures in runs.items():
        found.ratios[name] = _over(figures, base, "jct_mean")
    found.limit = ratio([one["limit"] for one in base], [one["jct_mean"] for one in base])
    found.best_published = _best(found, kinds, "published")
    found.best_clairvoyant = _best(found, kinds, "clairvoyant")
    if heavy:
        found.goals.append(_most("mean JCT / baseline, heavy-tailed gaps", found.ratios[OURS], MOST_HEAVY, ""))
    if load <= BUSY:
        if load <= IDLE:
            found.goals.append(_most("mean JCT / baseline, idle", found.ratios[OURS], MOST_IDLE, ""))
        return found
    found.null = _null(base)
    reason = _reasons(found, runs)
    found.goals.append(_most("mean JCT / baseline", found.ratios[OURS], MOST_OF_BASELINE, reason(MOST_OF_BASELINE)))
    if found.best_published:
        rival = runs[found.best_published]
        most = MOST_OF_PUBLISHED * found.ratios[found.best_published].value
        text = f"mean JCT / best published ({found.best_published})"
        found.goals.append(_most(text, _over(ours, rival, "jct_mean"), MOST_OF_PUBLISHED, reason(most)))
    if found.best_clairvoyant:
        over = _over(ours, runs[found.best_clairvoyant], "jct_mean")
        text = f"mean JCT / {found.best_clairvoyant}"
        found.goals.append(_most(text, over, MOST_OF_CLAIRVOYANT, _compared(ours, runs[found.best_clairvoyant])))
    found.goals.append(_most("p99 TTFT / baseline", _over(ours, base, "ttft_p99"), MOST_TTFT, _waits(ours, base)))
    fair = sum(one["jain"] for one in ours) / len(ours)
    theirs = sum(one["jain"] for one in base) / len(base)
    why = "" if fair >= LEAST_JAIN else f"the baseline's is {theirs:.2f}"
    found.goals.append(Goal("Jain index of tenants' slowdowns", fair, f"{fair:.3f}", fair >= LEAST_JAIN, why))
    return found


def _null(base: Sequence[Figures]) -> str:
    waiting = min(one["queue"] for one in base)
    lost = min(one["lost_reuse"] for one in base)
    if waiting < LEAST_WAITING:
        return f"null: no queue ({waiting:.2f} calls waited on average)"
    if lost < LEAST_LOST:
        return f"null: caches were not full ({lost:.1%} of reusable tokens lost)"
    return ""


def _over(figures: Sequence[Figures], others: Sequence[Figures], name: str) -> Ratio:
    return ratio([one[name] for one in figures], [one[name] for one in others])


def _best(found: Verdict, kinds: Mapping[str, Kind], kind: Kind) -> str:
    names = [name for name in found.ratios if kinds[name] == kind]
    return min(names, key=lambda name: found.ratios[name].value, default="")


def _most(text: str, value: Ratio, most: float, reason: str) -> Goal:
    met = value.value <= most
    return Goal(f"{text} <= {most:g}", value.value, str(value), met, "" if met else reason)


def _reasons(found: Verdict, runs: Mapping[str, Sequence[Figures]]) -> Callable[[float], str]:
    """Why a ratio to the baseline is above what it should be."""

    def why(most: float) -> str:
        if found.limit is not None and found.limit.value > most:
            return f"no policy can: the limit is {found.limit.value:.2f} of the baseline, {most:.2f} was wanted"
        best = found.ratios.get(found.best_clairvoyant)
        if best is not None and best.value > most:
            return f"{found.best_clairvoyant} comes to {best.value:.2f} of the baseline, {most:.2f} was wanted"
        return _compared(runs[OURS], runs[found.best_clairvoyant]) if best is not None else "not known"

    return why


def _compared(ours: Sequence[Figures], best: Sequence[Figures]) -> str:
    """Ours beside who knows the future: is it cache or order?"""

    def mean(figures: Sequence[Figures], name: str) -> float:
        return sum(one[name] for one in figures) / len(figures)

    lost, least = mean(ours, "lost_reuse"), mean(best, "lost_reuse")
    waiting, fewest = mean(ours, "queue"), mean(best, "queue")
    kept = f"{lost:.0%} of reusable tokens lost, {least:.0%} there"
    return f"{kept}; {waiting:.1f} calls waiting, {fewest:.1f} there" + ("" if lost > 1.2 * least + 0.01 else ": order")


def _waits(ours: Sequence[Figures], base: Sequence[Figures]) -> str:
    mean = _over(ours, base, "ttft_mean")
    return f"mean TTFT is {mean.value:.2f} of the baseline's: waits are fewer and longer" if mean.value < 1 else "waits"
