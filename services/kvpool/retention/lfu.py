"""Least frequently used: what fewest calls used goes first."""

from services.kvpool.segment import Pressure, Segment


class Policy:
    """The density of an exponential law with a rate proportional to the uses, at equal gain and bytes."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        return float(segment.num_uses)
