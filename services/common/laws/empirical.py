"""The law of samples."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

_MOST_HORIZONS = 24


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
        return (bisect_right(self._times, elapsed + tau) - first) / left if left else 1.0

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        first = bisect_right(self._ends, elapsed)
        left = len(self._ends) - first
        if not left:
            return 0.0
        last = bisect_right(self._times, elapsed + tau)
        within = self._sums[last] - self._sums[first] - elapsed * (last - first)
        return max(within + tau * (len(self._ends) - last), 0.0) / left

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        first = bisect_right(self._ends, elapsed)
        stride = max(1, -(-(len(self._times) - first) // _MOST_HORIZONS))
        return [time - elapsed for time in self._times[first + stride - 1 :: stride]]
