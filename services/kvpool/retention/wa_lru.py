"""Workflow-aware LRU of SAGA (2605.00528, its public code; algorithms.md 1.6), evicting the greatest
0.3 * idle / longest idle + 0.5 * (1 - P(reuse)) + 0.2 * size / largest.

A fixed score, no case of the density. P(reuse) is a reconstruction: SAGA sums transition probabilities of a declared
graph times overlap; here it is the chance, by the laws of return, that a program comes back within `reuse_seconds`
(SAGA's longest TTL).
"""

from services.kvpool.segment import Pressure, Segment


class Policy:
    """Keywords: the paper's weights."""

    def __init__(
        self,
        idle_weight: float = 0.3,
        reuse_weight: float = 0.5,
        size_weight: float = 0.2,
        reuse_seconds: float = 300.0,
    ) -> None:
        self._idle_weight = idle_weight
        self._reuse_weight = reuse_weight
        self._size_weight = size_weight
        self._reuse_seconds = reuse_seconds

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        idle = min(1.0, max(0.0, now - segment.last_used) / max(pressure.longest_idle_seconds, 1e-9))
        size = min(1.0, segment.num_bytes / max(1, pressure.largest_bytes))
        stays_away = 1.0 - self._reuse(segment, now)
        evict = self._idle_weight * idle + self._reuse_weight * stays_away + self._size_weight * size
        return self._idle_weight + self._reuse_weight + self._size_weight - evict

    def _reuse(self, segment: Segment, now: float) -> float:
        """P(one of the programs comes back in time)."""
        away = 1.0
        for program in segment.programs.values():
            if program.num_running:
                return 1.0
            if program.returns is not None:
                away *= 1.0 - program.returns.cdf(self._reuse_seconds, max(0.0, now - program.idle_since))
        return 1.0 - away
