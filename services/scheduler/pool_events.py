"""What the scheduler's core is told of KV pools, and what it says of a call's KV.

Blocks are named by the low 64 bits of their chained hash, inside a namespace. A pool is known by its id through its
whole life and after a restart. Nothing here is needed for a right answer: what is not so is computed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

PREFETCH_LEASE_SECONDS = 10.0
"""How long prefetched blocks are held for a call that has not come to its engine's turn; the pool bounds it too."""


class Role(IntEnum):
    """Which part of a call a worker is for; the numbers are those of WorkerRole."""

    BOTH = 1
    PREFILL = 2
    """Prefills alone; whole calls only while no other worker of the model takes calls."""
    DECODE = 3
    """Goes on with what was prefilled elsewhere, and takes whole calls where that is predicted to be better."""


@dataclass(frozen=True, slots=True)
class PoolSpeeds:
    """Moving averages in bytes a second; 0: not known."""

    load: float = 0.0
    """Shared memory to engine."""
    ssd_read: float = 0.0
    pull: float = 0.0
    """Another pool's memory to this one's."""


@dataclass(frozen=True, slots=True)
class PoolJoined:
    """A pool answers. What it was known to hold before it was away counts again, unless its next report resets it."""

    pool_id: str
    data_address: str
    """From which other pools pull."""
    capacity_bytes: int
    """Of all tiers."""


@dataclass(frozen=True, slots=True)
class ReplicaUpdate:
    """Changes in one namespace. A block is in `dram` when it can be read there now, in `ssd` when it is there alone."""

    namespace_id: str
    dram: Sequence[int] = ()
    ssd: Sequence[int] = ()
    removed: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class PoolReported:
    """What came, moved and went in a pool."""

    pool_id: str
    updates: Sequence[ReplicaUpdate] = ()
    reset: bool = False
    """Forget what was known first."""
    speeds: PoolSpeeds | None = None
    """None: as they were."""


@dataclass(frozen=True, slots=True)
class PoolAway:
    """A pool does not answer: nothing is expected from it until it joins again."""

    pool_id: str


@dataclass(frozen=True, slots=True)
class PoolLost:
    """A pool is gone, with all that was known of it."""

    pool_id: str


@dataclass(frozen=True, slots=True)
class Handle:
    """Which KV: the prefix of `num_blocks` blocks whose last one is `tip`."""

    namespace_id: str
    tip: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Replica:
    """Where KV is: leading blocks of a handle in a pool."""

    pool_id: str
    data_address: str
    num_blocks: int
    on_ssd: bool
    """Some of them are on disk alone."""


@dataclass(frozen=True, slots=True)
class KVPlan:
    """What was decided about a call's KV; empty: nothing."""

    handle: Handle | None = None
    """What some pool holds of the prompt and is worth bringing."""
    replica: Replica | None = None
    """Where from, if not from the worker's own pool."""
    lease_id: str = ""
    """Taken by the Prefetch that goes with the placement; empty: there is none."""
    hand_off: bool = False
    """Prefill only."""
    retain_seconds: float | None = None
    """In the engine's own cache, after the call; None: as the worker's settings say."""
    arriving: bool = False
    """The handle's blocks are being saved by the worker that prefilled them."""


NO_PLAN = KVPlan()


@dataclass(frozen=True, slots=True)
class CallHandedOff:
    """An attempt has prefilled the call, which is to go on elsewhere."""

    link: int
    program_id: str
    call_id: str
    attempt: int
    generated_tokens: int
    """Known to the gateway: they go on with the call. 0: it must be generated whole."""


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """A worker has another role from now on; what runs there goes on."""

    worker_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Tell a pool to get blocks that a call will want soon."""

    pool_id: str
    handle: Handle
    replica: Replica | None
    """None: they are on the pool's own disk."""
    lease_id: str


@dataclass(frozen=True, slots=True)
class ReleaseProgram:
    """Tell pools that they need keep nothing for the program alone."""

    program_id: str
    pool_ids: Sequence[str]


PoolEvent = PoolJoined | PoolReported | PoolAway | PoolLost
