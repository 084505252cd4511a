"""The protocol of laws, and the one integral that laws without a closed form share."""

from collections.abc import Callable, Sequence
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


SHORT = 1e-3
"""Of a law's own scale: what stands for a tau near 0."""

_PIECES = 18
_NODES = (
    (0.046910077030668, 0.118463442528095),
    (0.230765344947158, 0.239314335249683),
    (0.5, 0.284444444444444),
    (0.769234655052842, 0.239314335249683),
    (0.953089922969332, 0.118463442528095),
)
"""Gauss-Legendre, 5 points, on 0..1: (place, weight)."""


def integral(survival: Callable[[float], float], tau: float) -> float:
    """Of a survival function from 0 to tau: E[min(T, tau)]. Pieces double, so that a fast fall is not missed."""
    total = start = 0.0
    for piece in range(_PIECES - 1, -1, -1):
        end = tau / 2**piece
        width = end - start
        mean = sum(weight * survival(start + width * place) for place, weight in _NODES)
        total += width * mean
        if mean < 1e-12:
            break
        start = end
    return total
