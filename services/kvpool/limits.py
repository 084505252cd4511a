"""Bounds on what the pool's core does and remembers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults suit a pool of some tens of GiB."""

    acquire_seconds: float = 2.0
    """Longest wait of an Acquire or PeerRead."""
    lease_seconds: float = 10.0
    """Longest lease of a reader."""
    prefetch_seconds: float = 60.0
    """Longest lease of a Prefetch."""
    prefetch_chance: float = 0.0
    """Blocks on disk are brought back so early that their thread returns sooner with this chance; 0: only when the
    scheduler says so."""
    prefetch_lead_seconds: float = 0.1
    """They are there so long before."""
    reservation_seconds: float = 5.0
    """Longest reservation; as long does a block wait for the shards of other ranks."""
    pull_seconds: float = 30.0
    """After that, what a peer has not sent is not waited for."""
    running_seconds: float = 600.0
    """A call that was not heard of for so long does not run any more."""
    align_bytes: int = 4096
    """Of blocks in memory and on disk: what direct I/O needs."""
    high_fraction: float = 0.95
    """From here on, memory is written to disk, ahead of need, ..."""
    low_fraction: float = 0.90
    """... down to here."""
    batch_fraction: float = 1 / 64
    """Share of a tier that is freed at once: ranks are computed once for each batch."""
    disk_job_bytes: int = 32 * 1024 * 1024
    """Most in one WriteDisk or ReadDisk (but for a single block)."""
    disk_writing_bytes: int = 512 * 1024 * 1024
    """Most in all WriteDisk at one time, but for what is demoted on request."""
    disk_retry_seconds: float = 30.0
    """A full disk is not written to for so long."""
    max_programs: int = 20_000
    """Programs remembered; those unheard of for longest are released first."""
    max_threads: int = 64
    """Newest chains remembered of each program."""
    max_changes: int = 200_000
    """Changes of blocks remembered for those that follow them."""
