"""Calibration: where values fell in their laws, so that a law that is too sure, or not sure enough, is corrected."""

import numpy as np

from services.workflow.learning.scale import Floats

_NUM_PARTS = 20
_PRIOR = 10.0
"""In each part, values that fell as they should, assumed."""
_MOST = 4000.0
_REFRESH = 16
_EDGES = np.linspace(0.0, 1.0, _NUM_PARTS + 1)


class Calibration:
    """A histogram of the laws' own chances of what came (its probability integral transform): flat where they are
    right."""

    def __init__(self, chances: Floats) -> None:
        self._chances = chances
        self._parts = [_PRIOR] * _NUM_PARTS
        self._sum = _PRIOR * _NUM_PARTS
        self._asked, self._num_new = chances, 0

    def add(self, low: float, high: float) -> None:
        """A value fell between these chances of its law: in each part by its share."""
        low, high = min(max(low, 0.0), 1.0 - 1e-6), min(high, 1.0)
        self._num_new += 1
        self._sum += 1.0
        first, last = int(low * _NUM_PARTS), min(int(high * _NUM_PARTS), _NUM_PARTS - 1)
        if first >= last:
            self._parts[first] += 1.0
        else:
            parts, each = self._parts, 1.0 / (high - low)
            parts[first] += ((first + 1) / _NUM_PARTS - low) * each
            for part in range(first + 1, last):
                parts[part] += each / _NUM_PARTS
            parts[last] += (high - last / _NUM_PARTS) * each
        if self._sum > _MOST:
            self._parts = [0.5 * part for part in self._parts]
            self._sum *= 0.5

    def asked(self) -> Floats:
        """At which of a law's own chances to look for the values that really have the chances asked for. Made anew
        after some values."""
        if self._num_new >= _REFRESH:
            self._num_new = 0
            reached = np.concatenate(([0.0], np.cumsum(self._parts)))
            self._asked = np.interp(self._chances, reached / reached[-1], _EDGES).astype(np.float32)
        return self._asked

    def snapshot(self) -> list[float]:
        self._num_new = _REFRESH
        return list(self._parts)

    def restore(self, data: list[float]) -> None:
        if len(data) == _NUM_PARTS:
            self._parts, self._sum, self._num_new = list(data), sum(data), _REFRESH
