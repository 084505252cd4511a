"""Habits: what is learned by kind besides hazards: averages, samples, and what one thing tells of another. Bounded."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from math import log, log2
from typing import TypeVar

from services.common.laws import Empirical, Key

_KINDS = 4096
"""Kinds remembered by each table; the one not seen longest is forgotten first."""
_LEAST_WEIGHT = 0.05
"""Of the newest observation in an average, once there are many."""
_SAMPLES = 256
_LEVELS = 8
"""Times are told apart by powers of 2, so many of them."""
_FIRST_SECONDS = 0.25
_REFRESH = 1.1
_WAIT_WEIGHT = 1 / 512
_LEAST_WAIT_SECONDS = 10.0

_Value = TypeVar("_Value")


class Averages:
    """Of each kind: the mean at first, a moving average once twenty were seen."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Key, tuple[int, float]] = OrderedDict()

    def add(self, kind: Key, value: float) -> None:
        """One more of the kind."""
        count, mean = self._kinds.get(kind, (0, 0.0))
        count += 1
        self._kinds[kind] = (count, mean + max(1.0 / count, _LEAST_WEIGHT) * (value - mean))
        _use(self._kinds, kind)

    def of(self, kinds: Sequence[Key], unknown: float) -> float:
        """Of the first of `kinds` that was ever seen."""
        for kind in kinds:
            if (known := self._kinds.get(kind)) is not None:
                return known[1]
        return unknown


class Samples:
    """Of each kind: the newest samples, their law, and how much they differ."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Key, _Samples] = OrderedDict()

    def add(self, kind: Key, seconds: float) -> None:
        """One more of the kind."""
        samples = self._kinds.get(kind)
        if samples is None:
            samples = self._kinds[kind] = _Samples()
        samples.newest.append(seconds)
        samples.num_new += 1
        _use(self._kinds, kind)

    def law(self, kind: Key) -> Empirical | None:
        """Of the kind; None: none was seen."""
        samples = self._kinds.get(kind)
        return None if samples is None else samples.refreshed().law

    def count(self, kind: Key) -> int:
        """Of the kind, as many as are remembered."""
        samples = self._kinds.get(kind)
        return 0 if samples is None else len(samples.newest)

    def entropy(self, kind: Key) -> float:
        """Nats, of the samples by powers of 2; of a kind never seen as high as it can be."""
        samples = self._kinds.get(kind)
        return log(_LEVELS) if samples is None else samples.refreshed().entropy


class _Samples:
    __slots__ = ("entropy", "law", "newest", "num_new")

    def __init__(self) -> None:
        self.newest: deque[float] = deque(maxlen=_SAMPLES)
        self.num_new = 0
        self.law: Empirical | None = None
        self.entropy = 0.0

    def refreshed(self) -> "_Samples":
        if self.law is None or self.num_new > len(self.newest) * (_REFRESH - 1):
            self.num_new = 0
            self.law = Empirical(self.newest)
            counts = [0] * _LEVELS
            for seconds in self.newest:
                counts[_level(seconds)] += 1
            self.entropy = _entropy(counts)
        return self


class Waits:
    """A clock that goes by one while a typical wait passes, so that what depends on it is the same under any load.

    Typical is the mean wait of the calls that wait at a moment, E[W^2] / E[W] over calls: the many that did not wait
    count for nothing.
    """

    def __init__(self) -> None:
        self._mean = self._square = 0.0
        self._time = self._at = 0.0

    @property
    def typical_seconds(self) -> float:
        """Of a wait; at least 10."""
        return max(_LEAST_WAIT_SECONDS, self._square / self._mean if self._mean > 0 else 0.0)

    def add(self, seconds: float) -> None:
        """A call waited so long."""
        self._mean += _WAIT_WEIGHT * (seconds - self._mean)
        self._square += _WAIT_WEIGHT * (seconds * seconds - self._square)

    def time(self, now: float) -> float:
        """What the clock shows; it never goes back."""
        if now > self._at:
            self._time += (now - self._at) / self.typical_seconds
            self._at = now
        return self._time


class Coupling:
    """Of each kind: what knowing one time tells of another, their mutual information in nats."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Key, _Table] = OrderedDict()

    def add(self, kind: Key, seconds: float, other_seconds: float) -> None:
        """The two times of one more of the kind."""
        table = self._kinds.get(kind)
        if table is None:
            table = self._kinds[kind] = _Table()
        table.add(_level(seconds), _level(other_seconds))
        _use(self._kinds, kind)

    def information(self, kind: Key) -> float:
        """Of the kind; 0 for one never seen."""
        table = self._kinds.get(kind)
        return 0.0 if table is None else table.information()


class _Table:
    __slots__ = ("counts", "due", "known", "total")

    def __init__(self) -> None:
        self.counts = [[0] * _LEVELS for _ in range(_LEVELS)]
        self.total = 0
        self.due = 0.0
        self.known = 0.0

    def add(self, row: int, column: int) -> None:
        self.counts[row][column] += 1
        self.total += 1

    def information(self) -> float:
        """H(rows) + H(columns) - H(both), less what so few samples seem to tell by chance (Miller and Madow)."""
        if self.total >= self.due:
            self.due = self.total * _REFRESH + 1
            rows = [sum(row) for row in self.counts]
            columns = [sum(column) for column in zip(*self.counts, strict=True)]
            both = [count for row in self.counts for count in row]
            used = [sum(count > 0 for count in counts) for counts in (rows, columns, both)]
            bias = (used[2] - used[0] - used[1] + 1) / (2 * self.total)
            self.known = max(0.0, _entropy(rows) + _entropy(columns) - _entropy(both) - bias)
        return self.known


def _use(kinds: OrderedDict[Key, _Value], kind: Key) -> None:
    kinds.move_to_end(kind)
    if len(kinds) > _KINDS:
        kinds.popitem(last=False)


def _level(seconds: float) -> int:
    return min(max(int(log2(max(seconds, _FIRST_SECONDS) / _FIRST_SECONDS)), 0), _LEVELS - 1)


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(count / total * log(count / total) for count in counts if count)
