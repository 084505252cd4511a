"""Counts of the pool's core since its start; by tier where they are lists."""

from dataclasses import dataclass, field


def _tiers() -> list[int]:
    return [0, 0]


@dataclass(slots=True)
class Counts:
    """What is not counted elsewhere."""

    num_requested: int = 0
    num_missed: int = 0
    num_pulled: int = 0
    num_corrupt: int = 0
    num_hits: list[int] = field(default_factory=_tiers)
    read_bytes: list[int] = field(default_factory=_tiers)
    written_bytes: list[int] = field(default_factory=_tiers)
