"""Cells: for each of many keys, how many values got to each stretch and how many ended there. A bounded table."""

import base64
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.common.laws import Key
from services.workflow.learning.scale import NUM_STRETCHES, Floats

_FIRST_ROWS = 256

_ENDED = np.array([1, 2, 3, 2, 1]) / 9
_AROUND: Floats = np.stack((_ENDED, np.cumsum(_ENDED[::-1])[::-1])).astype(np.float32)
"""Of a value, the parts that ended around its place, and that got to each."""
_REACH = len(_ENDED) // 2

Places = npt.NDArray[np.intp]


class Rows(NamedTuple):
    """Cells, by their places in the table, and how often each place had been given away by then."""

    places: Places
    given: Places

    @property
    def but_last(self) -> "Rows":
        return Rows(self.places[:-1], self.given[:-1])

    @property
    def last(self) -> "Rows":
        return Rows(self.places[-1:], self.given[-1:])


class Cells:
    """At most `most` cells, the one not used longest makes room; one that has seen `most_seen` values forgets half."""

    def __init__(self, most: int, most_seen: float) -> None:
        self._most = most
        self._most_seen = most_seen
        self._rows: OrderedDict[Key, int] = OrderedDict()
        self._seen: Floats = np.zeros((min(_FIRST_ROWS, most), 2, NUM_STRETCHES), np.float32)
        """By row: values that ended in each stretch, and that got to it."""
        self._given: Places = np.zeros(most, np.intp)
        """By row: how often it went to another cell."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, keys: Sequence[Key]) -> Rows:
        """Where the cells of these keys are; a cell that is new is empty."""
        places = np.array([self._row(key) for key in keys], np.intp)
        return Rows(places, self._given[places])

    def of(self, places: Places) -> Floats:
        """(cells, 2, stretches): values that ended in each stretch, and that got to it."""
        return self._seen[places]

    def num_seen(self, place: int) -> float:
        """Values of that cell."""
        return float(self._seen[place, 1, 0])

    def passed(self, rows: Rows, start: int, end: int) -> None:
        """A value of these cells passed the stretches from `start` to before `end`."""
        self._seen[self._standing(rows), 1, start:end] += 1.0

    def ended(self, rows: Rows, start: int, place: int) -> None:
        """A value that had passed what is before `start` ended at `place`, or about there: few values say no more."""
        places = self._standing(rows)
        first, last = place - _REACH, place + _REACH + 1
        if first >= start and last <= NUM_STRETCHES:
            self._seen[places, 1, start:first] += 1.0
            self._seen[places, :, first:last] += _AROUND
        else:
            self._seen[places, 1, start : place + 1] += 1.0
            self._seen[places, 0, place] += 1.0
        full = places[self._seen[places, 1, 0] >= self._most_seen]
        if full.size:
            self._seen[full] *= 0.5

    def _standing(self, rows: Rows) -> Places:
        stand = self._given[rows.places] == rows.given
        return rows.places if stand.all() else rows.places[stand]

    def _row(self, key: Key) -> int:
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
            return row
        if len(self._rows) >= self._most:
            _, row = self._rows.popitem(last=False)
            self._seen[row] = 0.0
            self._given[row] += 1
        else:
            row = len(self._rows)
            if row >= len(self._seen):
                self._seen = np.concatenate((self._seen, np.zeros_like(self._seen)))[: self._most]
        self._rows[key] = row
        return row

    def snapshot(self, most: int) -> dict[str, Any]:
        """The `most` cells used last, as JSON takes it."""
        kept = list(islice(reversed(self._rows.items()), most))[::-1]
        rows = np.array([row for _, row in kept], np.intp)
        content = zlib.compress(self._seen[rows].astype("<f2").tobytes(), 1)
        return {"keys": [list(key) for key, _ in kept], "seen": base64.b64encode(content).decode("ascii")}

    def restore(self, data: dict[str, Any]) -> None:
        """What `snapshot` gave; everything else is forgotten."""
        keys: list[Key] = [tuple(key) for key in data["keys"]][-self._most :]
        flat = np.frombuffer(zlib.decompress(base64.b64decode(data["seen"])), "<f2").astype(np.float32)
        seen = flat.reshape(-1, 2, NUM_STRETCHES)
        seen = seen[len(seen) - len(keys) :]
        self._given += 1  # whoever knows a row of before must not write to it
        self._rows = OrderedDict((key, row) for row, key in enumerate(keys))
        size = min(self._most, max(_FIRST_ROWS, len(keys)))
        self._seen = np.zeros((size, 2, NUM_STRETCHES), np.float32)
        self._seen[: len(keys)] = seen

    def check(self) -> None:
        """Raise if the table is not what it says."""
        assert len(self._rows) <= self._most
        assert len(set(self._rows.values())) == len(self._rows) <= len(self._seen)
        assert bool((self._seen >= 0).all())
        assert bool((self._seen[:, 0] <= self._seen[:, 1] * 1.01 + 0.01).all())
