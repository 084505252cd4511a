"""Least recently used."""

from services.kvpool.segment import Pressure, Segment


class Policy:
    """The density of any law whose hazard falls with time, at equal gain and bytes (algorithms.md 2.4)."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        return segment.last_used
