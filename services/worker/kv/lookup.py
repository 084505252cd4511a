"""One question to the pool about one request: which blocks after those that the engine has can be loaded?

It is asked in the background and looked at in every step. A lookup owns a lease until `take` hands it on or `drop`
gives it back.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from legato.v1 import kvpool_pb2
from services.common import kv
from services.worker.kv.client import CONTROL_SECONDS, PoolClient
from services.worker.kv.config import ConnectorConfig
from services.worker.kv.params import CallParams

_LEASE_USED = 0.6
"""Of a lease's time, before a new one is taken out for what has not begun to be loaded."""


@dataclass(frozen=True, slots=True)
class Found:
    """What can be loaded, in the order of the chain."""

    lease_id: str
    arena_id: str
    num_held: int
    """Leading blocks for which the pool was not asked."""
    first_block: int
    offsets: Sequence[int]
    checksums: Sequence[int]


class Lookup:
    """Begins with its construction."""

    def __init__(
        self,
        pool: PoolClient,
        config: ConnectorConfig,
        params: CallParams,
        block_hashes: Sequence[bytes],
        num_held: int,
        now: float,
    ) -> None:
        self.num_held = num_held
        self._pool = pool
        self._num_wanted = len(block_hashes)
        self._lease_id = uuid.uuid4().hex
        wait_seconds = config.acquire_seconds if num_held < len(block_hashes) else 0.0
        self._give_up_at = now + wait_seconds + 2 * CONTROL_SECONDS
        self._lapses_at = now + config.lease_seconds * _LEASE_USED
        request = kvpool_pb2.AcquireRequest(
            lease_id=self._lease_id,
            namespace_id=pool.namespace_id,
            block_hashes=kv.joined(block_hashes),
            num_held=num_held,
            user=params.user,
            replica=params.replica,
            num_expected=params.num_expected,
            prefetch_lease_id=params.prefetch_lease_id,
        )
        request.wait.FromNanoseconds(round(wait_seconds * 1e9))
        request.duration.FromNanoseconds(round(config.lease_seconds * 1e9))
        self._answer: Future[kvpool_pb2.AcquireResponse | None] = pool.acquire(request, wait_seconds)

    def ended(self, now: float) -> bool:
        """Whether there is an answer, or none will come."""
        return self._answer.done() or now >= self._give_up_at

    def lapsed(self, now: float) -> bool:
        """Whether what it found had better be asked for anew."""
        return now >= self._lapses_at

    def found(self, num_held: int, num_shards: int) -> Found | None:
        """What is to be loaded after `num_held` blocks; None: nothing. Only after it ended."""
        answer = self._answer.result() if self._answer.done() else None
        if answer is None or num_held < self.num_held:
            return None
        skip = num_held - self.num_held
        offsets = answer.offsets[skip : self._num_wanted - self.num_held]
        checksums = answer.checksums[skip * num_shards : (skip + len(offsets)) * num_shards]
        if not offsets or len(checksums) != len(offsets) * num_shards:
            return None
        return Found(self._lease_id, answer.arena_id, self.num_held, num_held, offsets, checksums)

    def drop(self) -> None:
        """Give the lease back, now or when it comes."""
        released = kvpool_pb2.ReleasedLease(lease_id=self._lease_id)

        def give_back(answer: "Future[kvpool_pb2.AcquireResponse | None]") -> None:
            # An answer that came too late here may have been given in time there.
            self._pool.release(released)

        self._answer.add_done_callback(give_back)
