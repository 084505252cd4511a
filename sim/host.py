"""What a host has beside its engine: memory, a disk, links, and how fast they are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """Sizes in bytes, speeds in bytes a second."""

    dram_bytes: int
    ssd_bytes: int
    """0: no disk tier."""
    block_bytes: int
    block_tokens: int
    retention: str
    """A file of services/kvpool/retention."""
    prefetch_chance: float
    """Of services/kvpool/limits.py."""
    pcie_speed: float
    network_speed: float
    ssd_read_speed: float
    ssd_write_speed: float
    token_seconds: float
    """The engine's, to compute a token, and ..."""
    pair_seconds: float
    """... for each one that it attends to."""
    report_seconds: float
    """Between two reports to the scheduler, at least."""
