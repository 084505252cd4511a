"""The least cost that any policy can have, by a linear program (algorithms.md 3.4; the FOO family).

One variable for each run of blocks between two uses: the share of it that is kept. What is kept between two moments
fits into the pool; of one prompt a run is kept only as far as the run before it. Within a run the cost of a block grows
with the context before it, and what is kept of it is its head, so counting the run's mean cost for each block spares
the program more than any policy spares: the limit is below what can be reached, also where shares are not whole and a
pool knows the future. Storing is never forced. With more than `most_moments` moments at which the pool can be full,
only so many, evenly spread, are held to its size: the limit is lower still.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy import optimize, sparse  # pyright: ignore[reportMissingTypeStubs] there are none

from bench.retention.moments import compulsory_seconds, moments, reuses
from bench.retention.timeline import Request
from services.kvpool.cost import Costs

_optimize, _sparse = cast(Any, optimize), cast(Any, sparse)  # untyped


class Limit:
    """Of one timeline, for pools of any size."""

    def __init__(self, requests: Sequence[Request], block_tokens: int, costs: Costs, most_moments: int = 500) -> None:
        runs = np.array(list(reuses(requests)), dtype=np.int64).reshape(-1, 4)
        self._begin, self._end, self._size = runs[:, 0], runs[:, 1], runs[:, 3].astype(float)
        tokens = [(int(first) * block_tokens, int(count) * block_tokens) for _, _, first, count in runs]
        self._seconds = np.array([costs.recompute_seconds(first, count) for first, count in tokens])
        self._num_moments = len(moments(requests))
        self._most_moments = most_moments
        self.compulsory_seconds = compulsory_seconds(requests, block_tokens, costs)
        self.avoidable_seconds = float(self._seconds.sum())

    def seconds(self, capacity_blocks: int) -> float:
        """Cost of the best: compulsory misses and those avoidable ones that the room does not spare."""
        times = self._full(capacity_blocks)
        first, last = np.searchsorted(times, self._begin), np.searchsorted(times, self._end)
        counts = last - first
        columns = np.repeat(np.arange(len(counts)), counts)
        # Row by row: each run's moments count up from its first.
        rows = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts - first, counts)
        room = _sparse.csr_matrix((self._size[columns], (rows, columns)), shape=(len(times), len(counts)))
        follows = np.flatnonzero(self._end[1:] == self._end[:-1]) + 1
        ones = np.tile([1.0, -1.0], len(follows))
        pairs = np.column_stack([follows, follows - 1]).ravel()
        order = _sparse.csr_matrix(
            (ones, (np.repeat(np.arange(len(follows)), 2), pairs)), shape=(len(follows), len(counts))
        )
        bounds = np.concatenate([np.full(len(times), float(capacity_blocks)), np.zeros(len(follows))])
        solved = _optimize.linprog(
            -self._seconds, A_ub=_sparse.vstack([room, order]), b_ub=bounds, bounds=(0, 1), method="highs-ipm"
        )
        if solved.status != 0:
            raise RuntimeError(f"the linear program was not solved: {solved.message}")
        return self.compulsory_seconds + self.avoidable_seconds + float(solved.fun)

    def _full(self, capacity_blocks: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """The moments after which more is alive than fits, and something is used next: none else can bind."""
        changes = np.zeros(self._num_moments + 1)
        np.add.at(changes, self._begin, self._size)
        np.add.at(changes, self._end, -self._size)
        alive = np.cumsum(changes)
        times = np.unique(self._end) - 1
        times = times[alive[times] > capacity_blocks]
        if len(times) > self._most_moments:
            times = times[np.linspace(0, len(times) - 1, self._most_moments).astype(int)]
        return times
