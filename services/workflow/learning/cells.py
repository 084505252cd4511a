"""Cells: for each of many keys, how many values got to each stretch and how many ended there. A bounded table."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.common.laws import Key
from services.workflow.learning.scale import NUM_STRETCHES, Floats

_FIRST_ROWS = 256
_PARTS = 32
"""Of a full table, one makes room."""

_AROUND = np.array([1, 2, 3, 2, 1]) / 9
"""Of a value, the parts that ended around its place: few values say no more."""
_REACH = len(_AROUND) // 2

Places = npt.NDArray[np.intp]


class Rows(NamedTuple):
    """Cells, by their places in the table, and how often each place had been given away by then."""

    places: Places
    given: Places


class Cells:
    """At most `most` cells: those not used longest make room, some at a time. One that has seen `most_seen` values
    forgets half."""

    def __init__(self, most: int, most_seen: float) -> None:
        self._most = most
        self._most_seen = most_seen
        self._rows: dict[Key, int] = {}
        self._keys: list[Key] = []
        """By row; of one that is free, of the cell that it had."""
        self._free: list[int] = []
        self._seen: Floats = np.zeros((min(_FIRST_ROWS, most), 2 * NUM_STRETCHES), np.float32)
        """By row: values that ended in each stretch, and then those that passed each."""
        self._given: Places = np.zeros(most, np.intp)
        """By row: how often it went to another cell."""
        self._used: Places = np.zeros(most, np.intp)
        """By row: which of all questions was the last that asked for it."""
        self._num_asked = 0

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, keys: Sequence[Key]) -> Rows:
        """Where the cells of these keys are; a cell that is new is empty."""
        self._num_asked += 1
        found = list(map(self._rows.get, keys))
        if None in found:
            self._used[[row for row in found if row is not None]] = self._num_asked  # these stay where room is made
            found = [self._new(key) if row is None else row for key, row in zip(keys, found, strict=True)]
        places = np.array(found, np.intp)
        self._used[places] = self._num_asked
        return Rows(places, self._given.take(places))

    def of(self, places: Places) -> Floats:
        """A copy, (cells, 2 * stretches): values that ended in each stretch, then those that passed each."""
        return self._seen.take(places, 0)

    def num_seen(self, place: int) -> float:
        """Values of that cell."""
        return float(self._seen[place, 0] + self._seen[place, NUM_STRETCHES])

    def passed(self, rows: Rows, start: int, end: int) -> None:
        """A value of these cells passed the stretches from `start` to before `end`."""
        passed = self._seen[:, NUM_STRETCHES + start : NUM_STRETCHES + end]
        passed[self._standing(rows)] += 1.0

    def ended(self, rows: Rows, start: int, place: int) -> None:
        """A value that had passed what is before `start` ended at `place`, or about there."""
        places = self._standing(rows)
        seen = self._seen.take(places, 0)
        seen += _ENDED[place] if not start else _ended(start, place)
        num_seen = seen[:, 0] + seen[:, NUM_STRETCHES]
        if max(num_seen.tolist(), default=0.0) >= self._most_seen:
            seen[num_seen >= self._most_seen] *= 0.5
        self._seen[places] = seen

    def _standing(self, rows: Rows) -> Places:
        given = self._given.take(rows.places)
        return rows.places if given.tobytes() == rows.given.tobytes() else rows.places[given == rows.given]

    def _new(self, key: Key) -> int:
        if len(self._rows) >= self._most:
            self._make_room()
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
            if row >= len(self._seen):
                self._seen = np.concatenate((self._seen, np.zeros_like(self._seen)))[: self._most]
        self._rows[key] = row
        self._used[row] = self._num_asked
        return row

    def _make_room(self) -> None:
        """The table is full: the cells not used longest go."""
        num = -(-self._most // _PARTS)
        oldest = np.argpartition(self._used, num - 1)[:num]
        for row in oldest.tolist():
            del self._rows[self._keys[row]]
            self._free.append(row)
        self._seen[oldest] = 0.0
        self._given[oldest] += 1

    def snapshot(self, most: int) -> dict[str, Any]:
        """The `most` cells used last, as JSON takes it."""
        used = self._used.tolist()
        kept = sorted(self._rows.items(), key=lambda item: used[item[1]])[-most:]
        rows = np.array([row for _, row in kept], np.intp)
        content = zlib.compress(self._seen[rows].astype("<f2").tobytes(), 1)
        return {"keys": [list(key) for key, _ in kept], "seen": base64.b64encode(content).decode("ascii")}

    def restore(self, data: dict[str, Any]) -> None:
        """What `snapshot` gave; everything else is forgotten."""
        self._keys = [tuple(key) for key in data["keys"]][-self._most :]
        num = len(self._keys)
        flat = np.frombuffer(zlib.decompress(base64.b64decode(data["seen"])), "<f2").astype(np.float32)
        seen = flat.reshape(-1, 2 * NUM_STRETCHES)
        self._rows = {key: row for row, key in enumerate(self._keys)}
        self._free = []
        self._given += 1  # whoever knows a row of before must not write to it
        self._used[:num] = np.arange(num) - num
        self._seen = np.zeros((min(self._most, max(_FIRST_ROWS, num)), 2 * NUM_STRETCHES), np.float32)
        self._seen[:num] = seen[len(seen) - num :]

    def check(self) -> None:
        """Raise if the table is not what it says."""
        assert len(self._rows) <= self._most
        assert {self._keys[row] for row in self._rows.values()} == self._rows.keys()
        assert len(self._rows) + len(self._free) == len(self._keys) <= len(self._seen)
        assert bool((self._seen >= 0).all())


def _ended(start: int, place: int) -> Floats:
    """What a value adds to a cell if it had passed what is before `start` and ended about `place`."""
    added = np.zeros((2, NUM_STRETCHES), np.float32)
    first, last = place - _REACH, place + _REACH + 1
    if first >= start and last <= NUM_STRETCHES:
        added[0, first:last] = _AROUND
    else:
        added[0, place] = 1.0
    added[1, start:] = np.maximum(1.0 - np.cumsum(added[0, start:]), 0.0)
    return added.ravel()


_ENDED = np.stack([_ended(0, place) for place in range(NUM_STRETCHES)])
