"""What this pool offers to other pools: the transport's Source over the core."""

import itertools
from collections.abc import Sequence

from services.kvpool.actions import AnswerPeerRead
from services.kvpool.events import PeerRead, Release, ReleasedLease
from services.kvpool.pool import Pool
from services.kvpool.transport import Lent, Link


class Lender:
    """Lends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._leases = itertools.count(1)

    async def lend(
        self, namespace_id: str, hashes: Sequence[bytes], first_block: int, wait_seconds: float, lease_seconds: float
    ) -> Lent:
        lease_id = f"peer:{self._pool.arena_id}:{next(self._leases)}"

        def event(request: int) -> PeerRead:
            whole = (hashes, 0, len(hashes), first_block)
            return PeerRead(request, lease_id, namespace_id, *whole, wait_seconds, lease_seconds)

        answer = await self._pool.ask(event, AnswerPeerRead)
        return Lent(lease_id, answer.num_shards, answer.shard_bytes, answer.offsets, answer.checksums)

    def give_back(self, lent: Lent) -> None:
        self._pool.feed(Release((ReleasedLease(lent.lease_id),)))

    async def resolve(self, namespace_id: str, tip: int, num_blocks: int) -> list[Link]:
        hashes = self._pool.core.resolve(namespace_id, tip, num_blocks)
        return [Link(key, parent) for parent, key in zip((b"", *hashes), hashes, strict=False)]
