"""Stretches of a quantity: they grow geometrically, the first begins at 0 and the last has no end."""

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

NUM_STRETCHES = 80

Floats = npt.NDArray[np.float32]


class Scale:
    """`first`: where the second stretch begins; `ratio`: of the ends of two neighbours."""

    def __init__(self, first: float, ratio: float) -> None:
        self._edges = [0.0, *(first * ratio**step for step in range(NUM_STRETCHES - 1))]
        self.edges = np.array([*self._edges, self._edges[-1] * ratio])
        """Where each stretch begins and the one before ends; where the last one does, a value not far behind."""

    def place(self, value: float) -> int:
        """Of the stretch that the value is in."""
        return max(0, bisect_right(self._edges, value) - 1)


TOKENS = Scale(1.0, 1.18)
"""1 to 400,000."""
SECONDS = Scale(0.01, 1.22)
"""10 ms to half a day."""
