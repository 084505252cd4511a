"""Laws of a positive random time: what is believed of when something happens, given that it has not happened yet.

All times are seconds. `elapsed` is how long it has not happened already.
"""

from collections.abc import Sequence
from typing import Protocol


class Law(Protocol):
    """A distribution of a time T > 0."""

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        """P(T <= elapsed + tau | T > elapsed)."""
        ...

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        """E[min(T - elapsed, tau) | T > elapsed]."""
        ...

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        """Values of tau at which max-over-tau of a ratio of the two above is looked for, ascending, at most some
        dozens: the jumps of an empirical law, quantiles of a smooth one. A tau near 0 stands for the hazard rate."""
        ...
