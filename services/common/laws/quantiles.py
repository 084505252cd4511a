"""The law of a few equally likely values, as it goes over the wire: asked by table.

The i-th of n points is the quantile of (i + 1/2) / n; between points the law is uniform, and half a point's chance, at
most 2 %, lies behind the last one as a Lomax tail, so that nothing is ever overdue for certain. Equal points are a
jump. `never` is the chance that it does not happen at all. A point at 0 counts as one just behind it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import inf, sqrt

_MOST_TAIL = 0.02
_LEAST_SCALE = 1e-3
_LEAST_TIME = 1e-6
_AT_ONCE = 1e-9
_TAIL_PIECES = (0.5, 1.0, 2.0)
_MOST_HORIZONS = 24


class Quantiles:
    """Immutable. `points` finite, none below 0. Asking costs O(log points), `peak` O(points); the tables are made
    when first it is asked, so that making a law costs next to nothing."""

    __slots__ = ("_areas", "_chances", "_scale", "_tail", "_times", "never", "points")

    def __init__(self, points: Iterable[float], never: float = 0.0) -> None:
        self.points: Sequence[float] = tuple(sorted(points))
        self.never = min(max(never, 0.0), 1.0)
        if not self.points or self.points[0] < 0 or self.points[-1] == inf:
            raise ValueError("a law of quantiles needs finite points, none below 0")
        self._times: Sequence[float] = ()

    def _prepare(self) -> None:
        num, ever = len(self.points), 1.0 - self.never
        times = [max(point, _LEAST_TIME) for point in self.points]
        start = max(_LEAST_TIME, times[0] - (times[1] - times[0]) / 2) if num > 1 else times[0]
        tail = min(0.5 / num, _MOST_TAIL)
        self._chances: Sequence[float] = (
            0.0,
            *(ever * (place + 0.5) / num for place in range(num - 1)),
            ever * (1.0 - tail),
        )
        self._tail = ever * tail
        self._scale = max(times[-1], _LEAST_SCALE)
        """Of the tail: survival (1 + t / scale)^-2, t from the last point on."""
        self._times = (start, *times)
        areas = [start]
        for place in range(num):
            width = self._times[place + 1] - self._times[place]
            areas.append(areas[-1] + width * (1.0 - (self._chances[place] + self._chances[place + 1]) / 2))
        self._areas: Sequence[float] = areas
        """Below the survival, from 0 to each of the times."""

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        left = self._survival(elapsed)
        if left <= 0:
            return 1.0
        if elapsed >= self._times[-1]:
            behind = self._scale + elapsed - self._times[-1]
            return (1.0 - self.never / left) * (1.0 - (behind / (behind + tau)) ** 2)
        return max(0.0, 1.0 - self._survival(elapsed + tau) / left)

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        left = self._survival(elapsed)
        if left <= 0:
            return 0.0
        if elapsed >= self._times[-1]:
            behind = self._scale + elapsed - self._times[-1]
            never = self.never / left
            within = behind if tau == inf else behind * tau / (behind + tau)
            return (1.0 - never) * within + (never * tau if never else 0.0)
        return min((self._area(elapsed + tau) - self._area(elapsed)) / left, tau)

    def mean(self, elapsed: float = 0.0) -> float:
        """E[T - elapsed | T > elapsed]; infinite if it may never happen."""
        return inf if self.never > 0 else self.truncated_mean(inf, elapsed)

    def quantile(self, chance: float, elapsed: float = 0.0) -> float:
        """The least tau with cdf(tau, elapsed) >= chance; infinite where it never comes to that."""
        left = self._survival(elapsed) * (1.0 - chance)
        reached = 1.0 - left
        if reached > self._chances[-1]:
            behind = left - self.never
            if behind <= 0:
                return inf
            time = self._times[-1] + self._scale * (sqrt(self._tail / behind) - 1.0)
        else:
            place = max(1, bisect_left(self._chances, reached))
            low, high = self._chances[place - 1], self._chances[place]
            share = (reached - low) / (high - low) if high > low else 1.0
            time = self._times[place - 1] + share * (self._times[place] - self._times[place - 1])
        return max(0.0, time - elapsed)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        if not self._times:
            self._prepare()
        times = [time - elapsed for time in self._times if time > elapsed]
        if not times:
            behind = self._scale + max(0.0, elapsed - self._times[-1])
            return [behind * share for share in (_LEAST_SCALE, *_TAIL_PIECES)]
        stride = max(1, -(-len(times) // _MOST_HORIZONS))
        return times[::-1][::stride][::-1]

    def peak(self, elapsed: float, least: float = 0.0) -> float:
        """Events a second, at best: max over tau >= least of cdf(tau, elapsed) / truncated_mean(tau, elapsed). Between
        points the ratio falls and then rises, so it is greatest at one of them, or at once."""
        left = self._survival(elapsed)
        if left <= self.never:
            return 0.0
        at_once = least <= _AT_ONCE * (elapsed + self._scale)
        best = self._density(elapsed) / left if at_once else self._ratio(least, elapsed)
        if (last := self._times[-1]) <= elapsed + least:
            return best
        gone, area, end = 1.0 - left, self._area(elapsed), elapsed + max(least, 0.0)
        for place in range(bisect_right(self._times, end), len(self._times)):
            seconds = self._areas[place] - area
            happened = self._chances[place] - gone
            if happened > best * seconds:
                best = happened / seconds if seconds > 0 else inf
        if self._density(last) > best * (self._tail + self.never):  # it goes on rising behind the last point
            tail = (self._ratio(last + share * self._scale - elapsed, elapsed) for share in _TAIL_PIECES)
            best = max(best, *tail)
        return best

    def _ratio(self, tau: float, elapsed: float) -> float:
        seconds = self.truncated_mean(tau, elapsed)
        return self.cdf(tau, elapsed) / seconds if seconds > 0 else inf

    def _survival(self, time: float) -> float:
        if not self._times:
            self._prepare()
        place = bisect_right(self._times, time) - 1
        if place < 0:
            return 1.0
        start = self._times[place]
        if place + 1 == len(self._times):
            return self.never + self._tail * (self._scale / (self._scale + time - start)) ** 2
        return 1.0 - self._chances[place] - self._slope(place) * (time - start)

    def _area(self, time: float) -> float:
        place = bisect_right(self._times, time) - 1
        if place < 0:
            return time
        start, area = self._times[place], self._areas[place]
        past = time - start
        if place + 1 == len(self._times):
            tail = self._scale if time == inf else past * self._scale / (self._scale + past)
            return area + self._tail * tail + (self.never * past if self.never else 0.0)
        return area + past * (1.0 - self._chances[place] - self._slope(place) * past / 2)

    def _density(self, time: float) -> float:
        place = bisect_right(self._times, time) - 1
        if place < 0:
            return 0.0
        if place + 1 == len(self._times):
            behind = self._scale + time - self._times[place]
            return 2.0 * self._tail * self._scale**2 / behind**3
        return self._slope(place)

    def _slope(self, place: int) -> float:
        """Chance a second between this time and the next, which differ."""
        width = self._times[place + 1] - self._times[place]
        return (self._chances[place + 1] - self._chances[place]) / width
