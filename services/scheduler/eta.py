"""ETA: when a program will be done, by how its kind went, as an interval.

    seconds = R * pace,  R engine seconds left given those it got, pace seconds from start to end for each of them

Both are laws of the program's kind, so each end of the interval is the product of two quantiles and the interval covers
more than the 80 % that either would. The less was seen of the kind, the further out the quantiles: of one never seen
the earliest end is now, and nothing is refused by it. `expected` is a median: laws of service have heavy tails. The
earliest end has no tool after the last call, and nothing beside it in the engine.
"""

from typing import NamedTuple

from services.common.laws import Empirical, Hazard, Key, Law, Quantiles
from services.scheduler.habits import Averages, Samples

_OUTSIDE = 0.1
"""Of programs of a kind well known, those below the interval; as many are above."""
_LEAST_OUTSIDE = 0.02
"""Above the interval, however little is known."""
_WELL_KNOWN = 10.0
"""At so many programs seen the interval is open by half of that."""
_MOST_SECONDS = 1e7
_MOST_PACE = 1e6
_ALL: Key = ()

Eta = tuple[float, float, float]
"""Expected, low and high: seconds from now."""


class Paces:
    """Of each kind: seconds that its programs took for each engine second along their longest chain, tools included;
    and what portion of these a call has."""

    def __init__(self) -> None:
        self._whole, self._unqueued = Samples(), Samples()
        self._portions = Averages()

    def add(
        self, kind: Key, num_calls: int, attained_seconds: float, whole_seconds: float, unqueued_seconds: float
    ) -> None:
        """A program ended. `unqueued_seconds`: the same without what it waited in the queue."""
        if attained_seconds <= 0:
            return
        for key in (kind, _ALL):
            self._portions.add(key, attained_seconds / max(1, num_calls))
            for paces, seconds in ((self._whole, whole_seconds), (self._unqueued, unqueued_seconds)):
                paces.add(key, min(max(1.0, seconds / attained_seconds), _MOST_PACE))

    def of(self, kind: Key) -> tuple[int, Law | None, Law | None, float]:
        """How many of the kind were seen; the laws with and without waiting, of all programs if none was; the portion
        of a call."""
        num_seen = self._whole.count(kind)
        key = kind if num_seen else _ALL
        return num_seen, self._whole.law(key), self._unqueued.law(key), self._portions.of([key], 0.0)


class Rest(NamedTuple):
    """What is believed of the rest of a program."""

    remaining: Law
    """Engine seconds of the whole program, of which `attained_seconds` have passed."""
    past: Law
    """The same as the newest samples."""
    attained_seconds: float
    running_since: float
    """When its newest call that runs was placed; inf: none does."""
    num_seen: float
    """Programs of its kind that the laws were learned from; inf: somebody said how much is left."""
    whole: Law | None
    """Pace with the waits in the queue; None: no program has ended yet."""
    unqueued: Law | None
    """Without."""
    portion: float
    """Engine seconds of a call of its kind."""

    def eta(self, now: float, wait_seconds: float) -> Eta:
        """`wait_seconds`: in the queue as it is, before anything of it runs."""
        outside = _OUTSIDE / (1.0 + _WELL_KNOWN / self.num_seen) if self.num_seen else 0.0
        above = 1.0 - max(outside, _LEAST_OUTSIDE)
        attained = self.attained_seconds + max(0.0, now - self.running_since) / _pace(self.whole, 0.5)
        low = quantile(self.past, outside, attained)
        if self.num_seen * outside < 1.0:  # then less than one of so few is below the quantile: samples do not show it
            low = min(low, quantile(self.remaining, outside, attained))
        low += (_pace(self.unqueued, outside) - 1.0) * max(0.0, low - self.portion)
        ends: list[float] = []
        for chance in (0.5, above):
            seconds = quantile(self.remaining, chance, attained)
            waiting = seconds * _pace(self.unqueued, chance) + wait_seconds
            ends.append(max(seconds * _pace(self.whole, chance), waiting))
        expected = max(low, ends[0])  # the samples know better than their law, which is smoothed
        return expected, low, max(expected, *ends)


def quantile(law: Law, chance: float, elapsed: float = 0.0) -> float:
    """The least tau with cdf(tau, elapsed) >= chance; 0 for chance 0. At most `_MOST_SECONDS`."""
    if chance <= 0:
        return 0.0
    if isinstance(law, Hazard | Empirical | Quantiles):
        return min(law.quantile(chance, elapsed), _MOST_SECONDS)
    below, above = 0.0, 1e-3
    while law.cdf(above, elapsed) < chance:
        below, above = above, 2 * above
        if above > _MOST_SECONDS:
            return _MOST_SECONDS
    while above - below > 1e-3 * above:
        middle = (below + above) / 2
        below, above = (middle, above) if law.cdf(middle, elapsed) < chance else (below, middle)
    return above


def _pace(law: Law | None, chance: float) -> float:
    return 1.0 if law is None or not chance else max(1.0, quantile(law, chance))
