"""Paired comparison: the ratio of two contestants' figures over seeds, with its 95 % interval.

Each seed gives one log ratio of figures from the same programs and arrivals; what differs between seeds falls out. The
interval is Student's t on the mean of the logs, so a ratio and its inverse have inverse intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's 97.5th percentiles for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean over seeds, with its interval; without a second seed nothing is known of it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})" if self.high < inf else f"{self.value:.2f}"


def ratio(figures: Sequence[float], others: Sequence[float]) -> Ratio:
    """Of positive figures, seed by seed, over others."""
    logs = [log(figure / other) for figure, other in zip(figures, others, strict=True)]
    mean = sum(logs) / len(logs)
    if len(logs) == 1:
        return Ratio(exp(mean), 0.0, inf)
    variance = sum((value - mean) ** 2 for value in logs) / (len(logs) - 1)
    half = _T95[min(len(logs) - 2, len(_T95) - 1)] * sqrt(variance / len(logs))
    return Ratio(exp(mean), exp(mean - half), exp(mean + half))
