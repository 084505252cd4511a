"""What the pool's core is told; actions.py says what it answers.

`request` names one waiting caller; whoever feeds the core chooses it, unique while the caller waits. Each event with
a `request` is answered exactly once, by an action with the same `request` (its own Answer..., or Refuse): at once, but
for Acquire and PeerRead, which may wait until their `wait_seconds` are over. No answer follows CallerGone.
`job` names one transfer, chosen by the core; each job ends with exactly one last event of its kind, whatever happens,
and until then the shell may read and write the places that the job names.

Hashes are 32 bytes, in the order of their chain; positions count blocks from the root of the chain. Offsets are bytes
from the start of the arena or of the disk tier; there, num_shards shards of shard_bytes follow one another. Checksums
come flat: num_shards for each block. NO_ROOM of services/common/kv.py stands for "no offset". Unknown lease,
reservation and program ids are ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from services.common.laws import Law


class Tier(IntEnum):
    """A kind of memory outside the engines; the numbers are those of KVTier."""

    DRAM = 1
    SSD = 2


@dataclass(frozen=True, slots=True)
class User:
    """For whom KV is kept."""

    program_id: str
    tenant: str = ""
    agent: str = ""
    thread: str = ""

    @property
    def name(self) -> str:
        """Of the thread: the agent's, where it has none of its own."""
        return self.thread or self.agent


@dataclass(frozen=True, slots=True)
class Replica:
    """Another pool that has leading blocks of a chain."""

    pool_id: str
    data_address: str
    num_blocks: int
    """From the root."""
    tier: Tier = Tier.DRAM


# What workers and the scheduler ask


@dataclass(frozen=True, slots=True)
class Attach:
    """A namespace is used here. Idempotent. Refused (INVALID_ARGUMENT) when a block is larger than the arena."""

    request: int
    namespace_id: str
    num_shards: int
    shard_bytes: int
    block_tokens: int


@dataclass(frozen=True, slots=True)
class Acquire:
    """A call of the user begins: lease the longest prefix that can be had in DRAM in time. Idempotent by lease_id.
    Refused (MODEL_NOT_FOUND) for an unknown namespace."""

    request: int
    lease_id: str
    namespace_id: str
    hashes: Sequence[bytes]
    """The whole chain of the prompt, from its root; not changed by anyone later."""
    num_held: int
    """Leading blocks that the engine has."""
    user: User
    replica: Replica | None
    wait_seconds: float
    lease_seconds: float
    num_expected: int = 0
    """Leading blocks that are being stored, or are about to be, and are worth the wait."""
    prefetch_lease_id: str = ""
    """The lease of the Prefetch for this call: the new lease takes it over."""


@dataclass(frozen=True, slots=True)
class CallerGone:
    """The caller of an Acquire or PeerRead went away: no answer, no lease."""

    request: int


@dataclass(frozen=True, slots=True)
class ReleasedLease:
    """One lease that ends."""

    lease_id: str
    num_bytes: int = 0
    copy_seconds: float = 0.0
    corrupt_blocks: Sequence[int] = ()
    """Counted after the held ones: their checksum was wrong."""


@dataclass(frozen=True, slots=True)
class Release:
    """Leases end; those of peers too."""

    leases: Sequence[ReleasedLease]


@dataclass(frozen=True, slots=True)
class BeginStore:
    """Reserve room for blocks that follow one another, for one shard of each. Refused (MODEL_NOT_FOUND)."""

    request: int
    namespace_id: str
    hashes: Sequence[bytes]
    parent_hash: bytes
    """Of the block before the first; empty: that is the root."""
    first_block: int
    shard: int
    user: User
    seconds: float
    """Then the reservation lapses."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The blocks that got room are written. Refused (LEASE_LOST) when the reservation has lapsed. Idempotent."""

    request: int
    reservation_id: str
    checksums: Sequence[int]
    """One for each block that got room: this shard's."""
    copy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Abort:
    """Give a reservation's room back."""

    reservation_id: str


@dataclass(frozen=True, slots=True)
class FinishCall:
    """A call of the user ended."""

    namespace_id: str
    user: User


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Begin to bring a handle's blocks to DRAM and keep them under the lease; answered at once. Idempotent by
    lease_id. Refused (MODEL_NOT_FOUND)."""

    request: int
    namespace_id: str
    tip: int
    """Low 64 bits of the hash of the last block."""
    num_blocks: int
    replica: Replica | None
    lease_id: str
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Demote:
    """Move a program's idle blocks to disk."""

    request: int
    program_id: str


@dataclass(frozen=True, slots=True)
class ReleaseProgram:
    """Give up what is kept for the program alone."""

    program_id: str


@dataclass(frozen=True, slots=True)
class PeerRead:
    """Another pool wants to read, from `first_block` on: the chain in `hashes` (all from the root), or, if that is
    empty, the one that ends in `tip`. Blocks on disk are brought to DRAM first, as far as `wait_seconds` allow.
    Refused (MODEL_NOT_FOUND) for an unknown namespace."""

    request: int
    lease_id: str
    namespace_id: str
    hashes: Sequence[bytes]
    tip: int
    num_blocks: int
    first_block: int
    wait_seconds: float
    lease_seconds: float


# What the workflow service says


@dataclass(frozen=True, slots=True)
class ThreadForeseen:
    """A thread's return is foretold. Newer ones replace older ones; one of a thread that is not known is kept for when
    it is."""

    program_id: str
    thread: str
    """Or the agent, of one without a name."""
    returns: Law
    """Of a call that came from its end on, else from now on."""
    valid_seconds: float
    running: bool
    """It is said of a call that came: it has begun here, or is about to."""


# What became of the core's actions


@dataclass(frozen=True, slots=True)
class DiskWritten:
    """A WriteDisk ended. Blocks that are not `written` are not on the disk, nor in its index."""

    job: int
    written: Sequence[bool]
    """For each of its blocks."""


@dataclass(frozen=True, slots=True)
class DiskRead:
    """Blocks of a ReadDisk came, in order; `done` with the last. Those not `ok` could not be read, or their checksum
    was wrong."""

    job: int
    ok: Sequence[bool]
    """For the job's next blocks. With `done`, those that are not told failed."""
    done: bool = True


@dataclass(frozen=True, slots=True)
class PeerResolved:
    """A ResolvePeer ended."""

    job: int
    hashes: Sequence[bytes]
    """The chain from `first_block` of the action to the tip; empty: unknown there, or the peer did not answer."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """Blocks of a Pull came, in order and with right checksums; `done` with the last, or when no more will come."""

    job: int
    num_blocks: int
    """The job's next blocks."""
    checksums: Sequence[int]
    """num_shards for each of them, in order of the shards."""
    done: bool = True


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A block that the disk tier held when the pool started."""

    namespace_id: str
    num_shards: int
    shard_bytes: int
    block_tokens: int
    key: bytes
    parent: bytes
    position: int
    offset: int
    checksums: Sequence[int]


@dataclass(frozen=True, slots=True)
class DiskRestored:
    """The disk tier's contents, once, before anything is written. What cannot be used is forgotten (ForgetDisk)."""

    entries: Sequence[DiskEntry]


@dataclass(frozen=True, slots=True)
class DiskUnusable:
    """The disk fails (it is given up, with all that it holds), or is `full` before its size was reached (nothing is
    written for a while)."""

    full: bool


Event: TypeAlias = (
    Attach
    | Acquire
    | CallerGone
    | Release
    | BeginStore
    | Commit
    | Abort
    | FinishCall
    | Prefetch
    | Demote
    | ReleaseProgram
    | PeerRead
    | ThreadForeseen
    | DiskWritten
    | DiskRead
    | PeerResolved
    | Pulled
    | DiskRestored
    | DiskUnusable
)
