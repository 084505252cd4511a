"""What forecasts are worth: ours with a workflow service over ours without, beside what the truth would be worth.

The oracle's gain is what ours gains when it is told the truth about every call. Where its interval does not lie below
the same figure without, nothing is to be gained by knowing, as far as these seeds show, and no share of it is claimed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.policies.comparison import Ratio, ratio
from bench.policies.contestants import COLD, FORECASTS, ORACLE, OURS
from bench.policies.verdict import Figures

LEAST_SHARE = 0.5
"""Of the oracle's gain in mean JCT."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one workload at a load."""

    jct: Ratio
    ttft: Ratio
    recomputed: float
    """Tokens, over those without forecasts."""

    @classmethod
    def of(cls, some: Sequence[Figures], off: Sequence[Figures]) -> "Worth":
        """Of some runs over those without forecasts, seed by seed."""
        jct, ttft = (
            ratio([one[name] for one in some], [one[name] for one in off]) for name in ("jct_mean", "ttft_p99")
        )
        computed, before = (sum(one["recomputed_tokens"] for one in figures) for figures in (some, off))
        return cls(jct, ttft, computed / before if before else 1.0)


def share(jct: Ratio, oracle: Ratio) -> float | None:
    """Of the oracle's gain in mean JCT; None: it gains nothing."""
    return (1.0 - jct.value) / (1.0 - oracle.value) if oracle.high < 1.0 else None


def worth(runs: Mapping[tuple[str, float], Mapping[str, Sequence[Figures]]]) -> Iterator[str]:
    """Markdown."""
    yield (
        f"`{FORECASTS}` has a workflow service that has seen up to 200 other programs of the workload, `{COLD}` one "
        f"that knows nothing at the start, `{ORACLE}` is told the truth about every call. Each over `{OURS}`, which "
        "has no forecasts. Null: the oracle's interval reaches 1, so knowing gains nothing that these seeds show."
    )
    yield ""
    yield (
        "| workload | load | JCT, warm | JCT, cold | JCT, oracle | share of its gain | p99 TTFT, warm | cold | oracle "
        "| recomputed tokens, warm | cold | oracle |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for (workload, load), figures in runs.items():
        if not all(name in figures for name in (OURS, FORECASTS, COLD, ORACLE)):
            continue
        warm, cold, oracle = (Worth.of(figures[name], figures[OURS]) for name in (FORECASTS, COLD, ORACLE))
        reached = share(warm.jct, oracle.jct)
        told = "null" if reached is None else f"{reached:.0%}"
        if reached is not None and reached < LEAST_SHARE:
            told = f"**{told}**"
        all_three = (warm, cold, oracle)
        cells = [workload, f"{load:g}", *(str(one.jct) for one in all_three), told]
        cells += [f"{one.ttft.value:.2f}" for one in all_three] + [f"{one.recomputed:.2f}" for one in all_three]
        yield f"| {' | '.join(cells)} |"
