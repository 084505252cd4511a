"""What the pool's core answers: answers to requests, and work to be done; events.py says how requests, jobs, hashes,
offsets and checksums are named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.common.errors import Reason
from services.kvpool.events import Replica, Tier

NO_ROOM = 2**64 - 1
"""In the place of an offset: there is none (as in services/common/kv.py, which a core does not import)."""


# Answers


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request cannot be served."""

    request: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class AnswerAttach:
    """The namespace is known now."""

    request: int


@dataclass(frozen=True, slots=True)
class AnswerAcquire:
    """The blocks after the held ones, under the lease."""

    request: int
    offsets: Sequence[int]
    checksums: Sequence[int]
    num_from_ssd: int = 0
    num_from_peer: int = 0


@dataclass(frozen=True, slots=True)
class AnswerBeginStore:
    """Room, or NO_ROOM: the block is here already, is stored by another, has no parent here, or there is no room."""

    request: int
    reservation_id: str
    """Empty: nothing is to be stored."""
    offsets: Sequence[int]
    """Of the block's first shard, for each block asked for."""


@dataclass(frozen=True, slots=True)
class AnswerCommit:
    """How many blocks have every shard now."""

    request: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class AnswerPrefetch:
    """Leading blocks in DRAM now."""

    request: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class AnswerDemote:
    """Blocks on their way to disk."""

    request: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class AnswerPeerRead:
    """Blocks from `first_block` on, under the lease; each one's parent is the one before it."""

    request: int
    num_shards: int
    shard_bytes: int
    first_block: int
    parent_hash: bytes
    """Of the first block; empty: the root."""
    hashes: Sequence[bytes]
    offsets: Sequence[int]
    checksums: Sequence[int]


# Work


@dataclass(frozen=True, slots=True)
class DiskBlock:
    """A block to be written or read: `num_bytes` between an offset of the arena and one of the disk."""

    key: bytes
    parent: bytes
    position: int
    arena_offset: int
    disk_offset: int
    checksums: Sequence[int]


@dataclass(frozen=True, slots=True)
class WriteDisk:
    """Write blocks to disk, with what is needed to find them after a restart (all fields of a DiskEntry)."""

    job: int
    namespace_id: str
    num_shards: int
    shard_bytes: int
    block_tokens: int
    blocks: Sequence[DiskBlock]


@dataclass(frozen=True, slots=True)
class ReadDisk:
    """Read blocks into the arena and check their sums."""

    job: int
    namespace_id: str
    num_shards: int
    shard_bytes: int
    blocks: Sequence[DiskBlock]
    """In the order in which they are needed."""


@dataclass(frozen=True, slots=True)
class ForgetDisk:
    """These places of the disk tier hold nothing any more: strike them from its index before they are written anew."""

    offsets: Sequence[int]


@dataclass(frozen=True, slots=True)
class ResolvePeer:
    """Ask a peer for the hashes of the chain that ends in `tip` (its core's `resolve`)."""

    job: int
    replica: Replica
    namespace_id: str
    tip: int
    num_blocks: int
    first_block: int
    deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Pull:
    """Copy blocks from a peer into the arena and check their sums."""

    job: int
    replica: Replica
    namespace_id: str
    num_shards: int
    shard_bytes: int
    prefix: Sequence[bytes]
    """The whole chain up to the last block wanted."""
    first_block: int
    """Position of the first block wanted: those wanted are prefix[first_block:]."""
    offsets: Sequence[int]
    """Where each block wanted goes."""
    deadline_seconds: float
    """What has not come by then is not waited for."""


Action: TypeAlias = (
    Refuse
    | AnswerAttach
    | AnswerAcquire
    | AnswerBeginStore
    | AnswerCommit
    | AnswerPrefetch
    | AnswerDemote
    | AnswerPeerRead
    | WriteDisk
    | ReadDisk
    | ForgetDisk
    | ResolvePeer
    | Pull
)


# What can be asked of the core without an event


@dataclass(frozen=True, slots=True)
class Match:
    """How much of a chain is here."""

    num_blocks: int
    """In any tier."""
    num_dram_blocks: int
    """Leading ones in DRAM."""


@dataclass(frozen=True, slots=True)
class ReplicaUpdate:
    """Low 64 bits of the hashes of a namespace's blocks, by where they are now."""

    namespace_id: str
    dram: Sequence[int]
    ssd: Sequence[int]
    """On disk alone."""
    removed: Sequence[int]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a revision, up to `revision`."""

    revision: int
    reset: bool
    """What went before is forgotten: this is all there is."""
    updates: Sequence[ReplicaUpdate]


@dataclass(frozen=True, slots=True)
class TierStatus:
    """Counts of one tier."""

    tier: Tier
    used_bytes: int
    capacity_bytes: int
    num_blocks: int
    num_hit_blocks: int
    """Given to calls; those brought from disk for the call count for the disk."""
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """Counts since the start of the core, unless it says otherwise."""

    tiers: Sequence[TierStatus]
    num_requested_blocks: int
    num_missed_blocks: int
    num_pulled_blocks: int
    num_corrupt_blocks: int
    evictions: dict[str, int]
    """Blocks that left the pool or a tier, by reason."""
    top_programs: Sequence[tuple[str, int]]
    """(program_id, bytes) of those with the most bytes, most first, at most ten."""
    num_leases: int
    """Now."""
    num_reservations: int
    """Now."""
