"""GreedyDual-Size-Frequency, as RAGCache's PGDSF uses it (algorithms.md 1.21, from memory): clock + uses * cost / size.

The clock is the rank of what was evicted last when the segment was used: what is not used ages against it. Cost is our
recompute time in place of RAGCache's bilinear profile.
"""

from services.kvpool.segment import Pressure, Segment


class Policy:
    """Without the clock: the density of an exponential law with a rate proportional to the uses."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        cost = min(segment.recompute_seconds, segment.reload_seconds)
        return segment.floor + segment.num_uses * cost / max(1, segment.num_bytes)
