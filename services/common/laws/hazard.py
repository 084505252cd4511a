"""A law learned from what happened and what did not: a hazard rate for each stretch of elapsed time.

Stretches grow geometrically. Each has a count of events and the time that was spent at risk in it, so that what is
still waiting, or was given up, counts for what it is: time without an event (Kaplan and Meier's idea, with a prior).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import expm1

_RATIO = 1.25
_FIRST = 0.02
_COUNT = 72
EDGES = (0.0, *(_FIRST * _RATIO**step for step in range(_COUNT)))
"""Seconds at which stretches begin: 20 ms to 1.5 days. The last one has no end."""
_WIDTHS = tuple(end - start for start, end in pairwise(EDGES))
_LEAST = 1e-9
"""Rates are at least this, so that every law ends."""


class Exposure:
    """What was seen: events and time at risk by stretch."""

    __slots__ = ("events", "seconds")

    def __init__(self) -> None:
        self.events = [0.0] * len(EDGES)
        self.seconds = [0.0] * len(EDGES)

    def copy(self) -> "Exposure":
        """One that changes apart."""
        other = Exposure()
        other.events, other.seconds = list(self.events), list(self.seconds)
        return other

    def add(self, seconds: float, *, happened: bool, since: float = 0.0) -> None:
        """Something was looked at from `since` on and had waited `seconds` in all when it happened, or stopped to be
        looked at."""
        first, last = bisect_right(EDGES, since) - 1, bisect_right(EDGES, seconds) - 1
        for place in range(first, last):
            self.seconds[place] += _WIDTHS[place]
        self.seconds[first] -= since - EDGES[first]
        self.seconds[last] += seconds - EDGES[last]
        self.events[last] += happened


class Hazard:
    """Piecewise exponential: `rates[i]` between EDGES[i] and EDGES[i + 1]. `peak` is the greatest ratio of its cdf to
    its truncated mean (the index of Gittins), from a table."""

    __slots__ = ("_peaks", "_rates", "_sums")

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = [max(rate, _LEAST) for rate in rates]
        steps = (rate * width for rate, width in zip(self._rates, _WIDTHS, strict=False))
        self._sums = [0.0, *accumulate(steps)]
        self._peaks: list[float] | None = None

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return -expm1(self._total(elapsed) - self._total(elapsed + tau))

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        end = elapsed + tau
        place = bisect_right(EDGES, elapsed) - 1
        mean, survival, start = 0.0, 1.0, elapsed
        while start < end and survival > 1e-12:
            stop = min(EDGES[place + 1], end) if place + 1 < len(EDGES) else end
            fall = -expm1(-self._rates[place] * (stop - start))
            mean += survival * fall / self._rates[place]
            survival *= 1.0 - fall
            start, place = stop, place + 1
        return mean

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        place = bisect_right(EDGES, elapsed)
        ends = [edge - elapsed for edge in (*EDGES[place : place + 8], *EDGES[place + 8 :: 3])]
        return ends or [1.0 / self._rates[-1]]

    def peak(self, elapsed: float) -> float:
        """Events a second, at best: max over tau of cdf(tau, elapsed) / truncated_mean(tau, elapsed)."""
        if self._peaks is None:
            self._peaks = self._table()
        return self._peaks[bisect_right(EDGES, elapsed) - 1]

    def rate(self, elapsed: float) -> float:
        """Events a second, now."""
        return self._rates[bisect_right(EDGES, elapsed) - 1]

    def _total(self, time: float) -> float:
        place = bisect_right(EDGES, time) - 1
        return self._sums[place] + self._rates[place] * (time - EDGES[place])

    def _table(self) -> list[float]:
        """From the right, a run of stretches grows while what follows it is better than itself, as in isotonic
        regression. A run holds what happens in it, given that it is reached: events, time spent, survival."""
        peaks = [0.0] * len(self._rates)
        runs: list[tuple[float, float, float]] = []
        for place in range(len(self._rates) - 1, -1, -1):
            rate = self._rates[place]
            events = -expm1(-rate * _WIDTHS[place]) if place < len(_WIDTHS) else 1.0
            time, survival = events / rate, 1.0 - events
            while runs and runs[-1][0] * time > events * runs[-1][1]:
                more_events, more_time, further = runs.pop()
                events, time = events + survival * more_events, time + survival * more_time
                survival *= further
            runs.append((events, time, survival))
            peaks[place] = events / time
        return peaks


def learned_hazard(seen: Exposure, prior: Callable[[int], float], prior_events: float) -> Hazard:
    """The prior's rates (by stretch), each as good as `prior_events` events seen, and what was seen."""
    rates: list[float] = []
    for place in range(len(EDGES)):
        expected = prior(place)
        rates.append((seen.events[place] + prior_events) / (seen.seconds[place] + prior_events / expected))
    return Hazard(rates)


def middle(place: int) -> float:
    """A time within a stretch."""
    return EDGES[place] + _WIDTHS[place] / 2 if place < len(_WIDTHS) else EDGES[place]
