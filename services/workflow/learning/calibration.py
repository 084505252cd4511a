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
        self._parts = np.full(_NUM_PARTS, _PRIOR)
        self._asked, self._num_new = chances, 0

    def add(self, low: float, high: float) -> None:
        """A value fell between these chances of its law: in each part by its share."""
        low, high = min(max(low, 0.0), 1.0 - 1e-6), min(high, 1.0)
        self._num_new += 1
        first, last = int(low * _NUM_PARTS), min(int(high * _NUM_PARTS), _NUM_PARTS - 1)
        if first >= last:
            self._parts[first] += 1.0
        else:
            self._parts[first : last + 1] += self._shares(low, high, first, last)
        if self._parts.sum() > _MOST:
            self._parts *= 0.5

    def asked(self) -> Floats:
        """At which of a law's own chances to look for the values that really have the chances asked for. Made anew
        after some values."""
        if self._num_new >= _REFRESH:
            self._num_new = 0
            reached = np.concatenate(([0.0], np.cumsum(self._parts)))
            self._asked = np.interp(self._chances, reached / reached[-1], _EDGES).astype(np.float32)
        return self._asked

    def snapshot(self) -> list[float]:
        return self._parts.tolist()

    def restore(self, data: list[float]) -> None:
        if len(data) == _NUM_PARTS:
            self._parts, self._num_new = np.array(data), _REFRESH

    def _shares(self, low: float, high: float, first: int, last: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        edges = np.minimum(np.maximum(_EDGES[first : last + 2], low), high)
        return (edges[1:] - edges[:-1]) / max(high - low, 1e-9)
