"""What the cluster's KV pools say about themselves: KV kept outside the engines, one pool on each host."""

from dataclasses import dataclass
from typing import Literal

from legato.v1 import kv_pb2, kvpool_pb2

TierName = Literal["dram", "ssd"]

_TIERS: dict[int, TierName] = {kv_pb2.KV_TIER_DRAM: "dram", kv_pb2.KV_TIER_SSD: "ssd"}


@dataclass(frozen=True, slots=True)
class Tier:
    """One kind of memory of a pool. What is counted, is so since the pool's start."""

    name: TierName
    """"dram": shared memory of the host; "ssd": its disk."""
    used_bytes: int
    capacity_bytes: int
    num_blocks: int
    """In it now."""
    num_hit_blocks: int
    """Given from it to calls."""
    hit_share: float
    """Of all blocks that calls asked the pool for, the share that it gave, 0 to 1."""
    read_bytes: int
    written_bytes: int
    read_bytes_per_second: float
    """Over about the last ten seconds, as the next one."""
    written_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class ProgramBytes:
    """What a program keeps in a pool; blocks that several programs use count for each."""

    program_id: str
    num_bytes: int
    """In all tiers."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A KV pool. What is counted, is so since its start."""

    pool_id: str
    retention: str
    """The policy that says what is kept."""
    tiers: tuple[Tier, ...]
    num_requested_blocks: int
    """Asked for by calls, those left out that their engine had itself."""
    num_missed_blocks: int
    """Of these, not to be had."""
    num_pulled_blocks: int
    """Brought from other pools."""
    num_corrupt_blocks: int
    """Found damaged and dropped."""
    evictions: dict[str, int]
    """Blocks that left the pool or a tier, by reason, most first."""
    top_programs: tuple[ProgramBytes, ...]
    """Those with the most bytes, most first."""
    load_bytes_per_second: float
    """Speed from shared memory into engines; 0: not known yet, as for the next two."""
    ssd_read_bytes_per_second: float
    """From disk into shared memory."""
    pull_bytes_per_second: float
    """From another pool's memory into this one's."""
    num_leases: int
    """Holds of calls on blocks, now."""
    num_reservations: int
    """Room given to workers that are storing, now."""


def pool_of(status: kvpool_pb2.PoolStatus) -> Pool:
    """The wire's pool as a value. Tiers of a newer cluster are left out."""
    requested = status.num_requested_blocks
    return Pool(
        pool_id=status.description.pool_id,
        retention=status.retention,
        tiers=tuple(_tier_of(_TIERS[tier.tier], tier, requested) for tier in status.tiers if tier.tier in _TIERS),
        num_requested_blocks=requested,
        num_missed_blocks=status.num_missed_blocks,
        num_pulled_blocks=status.num_pulled_blocks,
        num_corrupt_blocks=status.num_corrupt_blocks,
        evictions=dict(sorted(status.evictions.items(), key=lambda item: (-item[1], item[0]))),
        top_programs=tuple(ProgramBytes(program.program_id, program.num_bytes) for program in status.top_programs),
        load_bytes_per_second=status.speeds.load,
        ssd_read_bytes_per_second=status.speeds.ssd_read,
        pull_bytes_per_second=status.speeds.pull,
        num_leases=status.num_leases,
        num_reservations=status.num_reservations,
    )


def _tier_of(name: TierName, tier: kvpool_pb2.TierStatus, num_requested: int) -> Tier:
    return Tier(
        name=name,
        used_bytes=tier.used_bytes,
        capacity_bytes=tier.capacity_bytes,
        num_blocks=tier.num_blocks,
        num_hit_blocks=tier.num_hit_blocks,
        hit_share=tier.num_hit_blocks / num_requested if num_requested else 0.0,
        read_bytes=tier.read_bytes,
        written_bytes=tier.written_bytes,
        read_bytes_per_second=tier.read_bytes_per_second,
        written_bytes_per_second=tier.written_bytes_per_second,
    )
