"""A law learned from what happened and what did not: a hazard rate for each stretch of elapsed time.

Stretches grow geometrically. Each has a count of events and the time that was spent at risk in it, so that what is
still waiting, or was given up, counts for what it is: time without an event (Kaplan and Meier's idea, with a prior).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import exp, expm1, log1p
from typing import NamedTuple

_RATIO = 1.25
_FIRST = 0.02
_COUNT = 72
EDGES = (0.0, *(_FIRST * _RATIO**step for step in range(_COUNT)))
"""Seconds at which stretches begin: 20 ms to 1.5 days. The last one has no end."""
_WIDTHS = tuple(end - start for start, end in pairwise(EDGES))
_LEAST = 1e-9
"""Rates are at least this, so that every law ends."""
_MOST_SHARE = 1.0 - 1e-6


class Exposure:
    """What was seen, by stretch: events, time at risk, and how many entered at risk. Adding costs the same however many
    stretches are passed."""

    __slots__ = ("_parts", "_passed", "_started", "events")

    def __init__(self) -> None:
        self.events = [0.0] * len(EDGES)
        self._started = 0.0
        """That were looked at from 0 on."""
        self._passed = [0.0] * len(EDGES)
        """That passed the whole stretch, less those that passed the whole one before."""
        self._parts = [0.0] * len(EDGES)
        """Time at risk of those that passed only a part of it."""

    def copy(self) -> "Exposure":
        """One that changes apart."""
        other = Exposure()
        other.events, other._started = list(self.events), self._started
        other._passed, other._parts = list(self._passed), list(self._parts)
        return other

    def halve(self) -> None:
        """Everything seen so far counts half from now on."""
        self._started /= 2
        for counts in (self.events, self._passed, self._parts):
            counts[:] = [count / 2 for count in counts]

    def add(self, seconds: float, *, happened: bool, since: float = 0.0) -> None:
        """Something was looked at from `since` on and had waited `seconds` in all when it happened, or stopped to be
        looked at."""
        first, last = bisect_right(EDGES, since) - 1, bisect_right(EDGES, seconds) - 1
        self._started += since <= 0
        self._passed[first] += 1
        self._passed[last] -= 1
        self._parts[first] -= since - EDGES[first]
        self._parts[last] += seconds - EDGES[last]
        self.events[last] += happened

    def seconds(self) -> list[float]:
        """Time at risk in each stretch."""
        passed = accumulate(self._passed)
        return [max(0.0, a + b * c) for a, b, c in zip(self._parts, passed, (*_WIDTHS, 0.0), strict=True)]

    def entered(self) -> list[float]:
        """How many were at risk where each stretch begins."""
        return [self._started, *accumulate(self._passed[:-1])]


class Hazard:
    """Piecewise exponential: `rates[i]` between EDGES[i] and EDGES[i + 1]. `peak` is the greatest ratio of its cdf to
    its truncated mean (the index of Gittins); it and `mean` come from tables."""

    __slots__ = ("_means", "_rates", "_runs", "_sums")

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = [max(rate, _LEAST) for rate in rates]
        steps = (rate * width for rate, width in zip(self._rates, _WIDTHS, strict=False))
        self._sums = [0.0, *accumulate(steps)]
        self._runs: list[_Run] | None = None
        self._means: list[float] | None = None

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return -expm1(self._total(elapsed) - self._total(elapsed + tau))

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        # What is left when tau has passed, E[T - elapsed - tau; T > elapsed + tau], taken off what is left now.
        left = exp(self._total(elapsed) - self._total(elapsed + tau))
        mean = self.mean(elapsed)
        if mean < 1e6 * tau:
            return mean - left * self.mean(elapsed + tau)
        return self._walk(tau, elapsed)  # the difference would have few digits left

    def mean(self, elapsed: float = 0.0) -> float:
        """E[T - elapsed | T > elapsed]."""
        if self._means is None:
            self._means = self._residuals()
        place = bisect_right(EDGES, elapsed) - 1
        if place + 1 >= len(EDGES):
            return 1.0 / self._rates[-1]
        rate = self._rates[place]
        fall = -expm1(-rate * (EDGES[place + 1] - elapsed))
        return fall / rate + (1.0 - fall) * self._means[place + 1]

    def quantile(self, chance: float, elapsed: float = 0.0) -> float:
        """The tau at which cdf(tau, elapsed) reaches `chance`, below 1."""
        total = self._total(elapsed) - log1p(-chance)
        place = bisect_right(self._sums, total) - 1
        return max(0.0, EDGES[place] + (total - self._sums[place]) / self._rates[place] - elapsed)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        place = bisect_right(EDGES, elapsed)
        ends = [edge - elapsed for edge in (*EDGES[place : place + 8], *EDGES[place + 8 :: 3])]
        return ends or [1.0 / self._rates[-1]]

    def peak(self, elapsed: float, least: float = 0.0) -> float:
        """Events a second, at best: max over tau >= least of cdf(tau, elapsed) / truncated_mean(tau, elapsed). Within
        a stretch as at its start."""
        runs = self._runs
        if runs is None:
            runs = self._runs = self._table()
        if least <= 0:
            run = runs[bisect_right(EDGES, elapsed) - 1]
            return run.events / run.seconds
        events, seconds = self.cdf(least, elapsed), self.truncated_mean(least, elapsed)
        survival = 1.0 - events
        place = bisect_right(EDGES, elapsed + least) - 1
        while place < len(runs) and (run := runs[place]).events * seconds > events * run.seconds:
            events += survival * run.events
            seconds += survival * run.seconds
            survival *= run.survival
            place = run.end
        return events / seconds

    def rate(self, elapsed: float) -> float:
        """Events a second, now."""
        return self._rates[bisect_right(EDGES, elapsed) - 1]

    def rate_of(self, place: int) -> float:
        """Events a second in that stretch."""
        return self._rates[place]

    def _walk(self, tau: float, elapsed: float) -> float:
        """The truncated mean, stretch by stretch."""
        end = elapsed + tau
        place = bisect_right(EDGES, elapsed) - 1
        mean, survival, start = 0.0, 1.0, elapsed
        while start < end:
            stop = min(EDGES[place + 1], end) if place + 1 < len(EDGES) else end
            fall = -expm1(-self._rates[place] * (stop - start))
            mean += survival * fall / self._rates[place]
            survival *= 1.0 - fall
            start, place = stop, place + 1
        return mean

    def _residuals(self) -> list[float]:
        """Mean residuals at the edges, from the right."""
        means = [0.0] * len(EDGES)
        means[-1] = 1.0 / self._rates[-1]
        for place in range(len(_WIDTHS) - 1, -1, -1):
            fall = -expm1(-self._rates[place] * _WIDTHS[place])
            means[place] = fall / self._rates[place] + (1.0 - fall) * means[place + 1]
        return means

    def _total(self, time: float) -> float:
        place = bisect_right(EDGES, time) - 1
        return self._sums[place] + self._rates[place] * (time - EDGES[place])

    def _table(self) -> "list[_Run]":
        """From the right, a run of stretches grows while what follows it is better than itself, as in isotonic
        regression."""
        runs: list[_Run] = []
        later: list[_Run] = []
        for place in range(len(self._rates) - 1, -1, -1):
            rate = self._rates[place]
            events = -expm1(-rate * _WIDTHS[place]) if place < len(_WIDTHS) else 1.0
            run = _Run(events, events / rate, 1.0 - events, place + 1)
            while later and later[-1].events * run.seconds > run.events * later[-1].seconds:
                more = later.pop()
                events, seconds = run.events + run.survival * more.events, run.seconds + run.survival * more.seconds
                run = _Run(events, seconds, run.survival * more.survival, more.end)
            later.append(run)
            runs.append(run)
        return runs[::-1]


class _Run(NamedTuple):
    """The best stretches to look at from one on, up to `end`: what happens in them, given that they are reached."""

    events: float
    seconds: float
    survival: float
    end: int


def learned_hazard(seen: Exposure, prior: Callable[[int], float], prior_events: float) -> Hazard:
    """The prior's rates (by stretch), each as good as `prior_events` events seen, and what was seen."""
    rates: list[float] = []
    for place, seconds in enumerate(seen.seconds()):
        expected = prior(place)
        rates.append((seen.events[place] + prior_events) / (seconds + prior_events / expected))
    return Hazard(rates)


def life_table(seen: Exposure, prior: Callable[[int], float], prior_number: float) -> Hazard:
    """The share of those who entered a stretch that it happened to in there (half of those who were lost to sight in it
    count as if they had not entered), and the prior's as if of `prior_number` more.

    Unlike `learned_hazard` this holds where all events of a stretch fall to one moment of it, as with sizes that
    repeat: time at risk would end with them, and a fifth of them seem to go on.
    """
    rates: list[float] = []
    entered, events = seen.entered(), seen.events
    for place, width in enumerate(_WIDTHS):
        number = (entered[place] + events[place] + entered[place + 1]) / 2
        expected = -expm1(-prior(place) * width)
        share = (events[place] + prior_number * expected) / (number + prior_number)
        rates.append(-log1p(-min(share, _MOST_SHARE)) / width)
    seconds, expected = seen.seconds()[-1], prior(len(_WIDTHS))
    rates.append((events[-1] + prior_number) / (seconds + prior_number / expected))
    return Hazard(rates)


def middle(place: int) -> float:
    """A time within a stretch."""
    return EDGES[place] + _WIDTHS[place] / 2 if place < len(_WIDTHS) else EDGES[place]
