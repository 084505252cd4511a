"""The law of samples."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, inf

_MOST_HORIZONS = 24
_JUST_AFTER = 1.0 + 1e-12
"""A horizon plus the elapsed time may be rounded to just before the sample it was made of."""


class Empirical:
    """Each sample as likely as any other; an infinite sample never happens. Past the last one nothing is known:
    `learned` adds a tail."""

    __slots__ = ("_ends", "_sums", "_times")

    def __init__(self, samples: Iterable[float]) -> None:
        self._ends = sorted(samples)
        if not self._ends or self._ends[0] < 0:
            raise ValueError("an empirical law needs samples, none below 0")
        self._times = [time for time in self._ends if time < inf]
        self._sums = [0.0, *accumulate(self._times)]

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        first = bisect_right(self._ends, elapsed)
        left = len(self._ends) - first
        return (bisect_right(self._times, (elapsed + tau) * _JUST_AFTER) - first) / left if left else 1.0

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        first = bisect_right(self._ends, elapsed)
        left = len(self._ends) - first
        if not left:
            return 0.0
        last = bisect_right(self._times, (elapsed + tau) * _JUST_AFTER)
        within = self._sums[last] - self._sums[first] - elapsed * (last - first)
        return max(within + tau * (len(self._ends) - last), 0.0) / left

    def quantile(self, chance: float, elapsed: float = 0.0) -> float:
        """The least tau with cdf(tau, elapsed) >= chance; 0 past the last sample."""
        first = bisect_right(self._ends, elapsed)
        left = len(self._ends) - first
        return self._ends[first + max(ceil(left * chance - 1e-9), 1) - 1] - elapsed if left else 0.0

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        first = bisect_right(self._ends, elapsed)
        left = len(self._times) - first
        stride = max(1, -(-left // _MOST_HORIZONS))
        return [time - elapsed for time in self._times[first + (left - 1) % stride :: stride]] if left else []
