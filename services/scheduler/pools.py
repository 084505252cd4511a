"""Pools: the KV pools that answer, what each holds, and how fast blocks come from where.

Bounded by the pools that live and by the index's own bound. Speeds that a pool has not measured are assumed.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, assert_never

from services.scheduler.limits import Limits
from services.scheduler.pool_events import (
    PoolAway,
    PoolEvent,
    PoolJoined,
    PoolLost,
    PoolReported,
    PoolSpeeds,
    Replica,
)
from services.scheduler.replica_index import NOTHING, Held, ReplicaIndex

PULL_LATENCY_SECONDS = 0.005
"""Before the first block of another pool comes: two round trips, and its lease on what is read."""
_FEW = 16
"""Pools that are all asked; of more, those that hold most and those that are near."""
_MOST = 4
"""Of those that hold most."""


@dataclass(slots=True)
class Pool:
    """One pool."""

    description: PoolJoined
    speeds: PoolSpeeds


class BlockSeconds(NamedTuple):
    """What a block costs at one worker, in seconds: computing it, or bringing it from where it is."""

    compute: float
    load: float
    """From the worker's own pool, shared memory."""
    ssd: float
    """From its disk."""
    pull: float
    """From another pool's shared memory."""
    pull_ssd: float
    """From another pool's disk."""


class Reach(NamedTuple):
    """What the pools hold of one call's prompt, in one namespace."""

    held: dict[str, Held]
    longest: str
    """The pool that holds most."""
    second: str
    """The one after it; empty: there is none."""

    def own(self, pool_id: str) -> Held:
        """What that pool holds."""
        return self.held.get(pool_id, NOTHING)

    def other(self, pool_id: str) -> str:
        """The best of the other pools; empty: there is none."""
        return self.second if pool_id == self.longest else self.longest


class Pools:
    """Read by placement; changed by `handle` alone."""

    def __init__(self, limits: Limits) -> None:
        self.index = ReplicaIndex()
        self._pools: dict[str, Pool] = {}
        self._present: dict[str, Pool] = {}
        """Those that are not away."""
        self._ids: list[str] = []
        self.version = 0
        """Grows when `block_seconds` may have changed."""
        self._assumed = PoolSpeeds(
            limits.assumed_load_bytes_per_second,
            limits.assumed_ssd_bytes_per_second,
            limits.assumed_pull_bytes_per_second,
        )

    def handle(self, event: PoolEvent) -> None:
        """Something happened to a pool. Idempotent; what unknown pools say is ignored."""
        match event:
            case PoolJoined():
                known = self._pools.get(event.pool_id)
                pool = Pool(event, known.speeds if known else self._assumed)
                self._pools[event.pool_id] = self._present[event.pool_id] = pool
                self._ids = sorted(self._pools)
                self.index.join(event.pool_id, event.capacity_bytes)
                self.version += 1
            case PoolReported():
                self._report(event)
            case PoolAway():
                self._present.pop(event.pool_id, None)
                self.version += 1
            case PoolLost():
                self._present.pop(event.pool_id, None)
                self.version += 1
                self._pools.pop(event.pool_id, None)
                self._ids = sorted(self._pools)
                self.index.leave(event.pool_id)
            case _:
                assert_never(event)

    def present(self, pool_id: str) -> bool:
        """It is known and answers."""
        return pool_id in self._present

    def holders(self, namespace_id: str, block_hashes: Sequence[int]) -> list[str]:
        """Some of those that answer and hold most of a chain."""
        if not self._present or not namespace_id:
            return []
        most = self.index.holders(namespace_id, block_hashes)
        return [pool_id for pool_id in islice(most, _MOST) if pool_id in self._present]

    def ids(self) -> list[str]:
        """All that are known, in order of their id."""
        return self._ids

    def reach(
        self, namespace_id: str, block_hashes: Sequence[int], arriving_at: str = "", near: Iterable[str] = ()
    ) -> Reach | None:
        """What pools that answer hold of a chain; None: nothing. `arriving_at`: a pool that is just getting all.

        `near`: which pools matter, besides those that hold most; they are asked where not all are."""
        if not self._present or not block_hashes or not namespace_id:
            return None
        held = self.index.match(namespace_id, block_hashes, self._asked(namespace_id, block_hashes, near))
        if arriving_at in self._present:
            held[arriving_at] = Held(len(block_hashes), len(block_hashes))
        if not held:
            return None
        longest = second = ""
        most = next_most = (0, 0)
        for pool_id, (dram, total) in held.items():
            length = (total, dram)
            if length > most:
                longest, second, most, next_most = pool_id, longest, length, most
            elif length > next_most:
                second, next_most = pool_id, length
        return Reach(held, longest, second)

    def block_seconds(self, pool_id: str, block_bytes: int, compute_seconds: float) -> BlockSeconds | None:
        """What blocks cost a worker beside that pool; None: the pool does not answer, so nothing can be brought."""
        pool = self._present.get(pool_id)
        if pool is None or not block_bytes:
            return None
        speeds = pool.speeds
        pull = min(speeds.load, speeds.pull)
        return BlockSeconds(
            compute_seconds,
            load=block_bytes / speeds.load,
            ssd=block_bytes / min(speeds.load, speeds.ssd_read),
            pull=block_bytes / pull,
            pull_ssd=block_bytes / min(pull, speeds.ssd_read),
        )

    def replica(self, pool_id: str, held: Held, num_blocks: int) -> Replica:
        """Blocks of a prefix that are to come from that pool."""
        address = self._pools[pool_id].description.data_address
        return Replica(pool_id, address, min(held.total, num_blocks), on_ssd=held.dram < min(held.total, num_blocks))

    def _report(self, event: PoolReported) -> None:
        pool = self._pools.get(event.pool_id)
        if pool is None:
            return
        if event.reset:
            self.index.reset(event.pool_id)
        for update in event.updates:
            self.index.update(event.pool_id, update)
        if (speeds := event.speeds) is not None:
            known = pool.speeds
            pool.speeds = PoolSpeeds(
                speeds.load or known.load, speeds.ssd_read or known.ssd_read, speeds.pull or known.pull
            )
            self.version += 1

    def _asked(self, namespace_id: str, block_hashes: Sequence[int], near: Iterable[str]) -> Collection[str]:
        if len(self._present) <= _FEW:
            return self._present
        most = self.index.holders(namespace_id, block_hashes)
        return [pool_id for pool_id in dict.fromkeys([*islice(most, _MOST), *near]) if pool_id in self._present]
