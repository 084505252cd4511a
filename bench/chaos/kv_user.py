"""Who uses a host's KV pool as an engine's connector does, byte by byte: `python -m bench.chaos.kv_user CLOSED`.

Simulated engines keep no KV. So this asks the pool for chains of blocks, reads what it gets, stores what it lacks. What
a block holds follows from its hash alone; one that holds anything else is a finding, written to the log as WRONG. Being
killed in the middle of it is part of the use: what it held the pool has to take back by itself. Once the file CLOSED is
there it begins nothing more.
"""

import asyncio
import hashlib
import logging
import sys
from pathlib import Path
from random import Random
from uuid import uuid4

import numpy as np
from google.protobuf.duration_pb2 import Duration
from prometheus_client import Gauge

from legato.v1 import kv_pb2, kvpool_pb2
from services.common import config, kv, telemetry
from services.kvpool.config import Settings
from services.worker.kv.client import PoolClient

BLOCK_BYTES = 128 * 1024
_NAMESPACE = kv_pb2.KVNamespace(
    model="chaos", dtype="bytes", block_size=32, layout="chaos", num_shards=1, platform="any", shard_bytes=BLOCK_BYTES
)
_NUM_CHAINS = 60
_LONGEST_CHAIN = 16
_WAIT_SECONDS = 1.0
_HOLD_SECONDS = 0.2
"""A lease or a reservation is held a moment, as copies would hold it."""
_log = logging.getLogger("kv_user")

LOADED, STORED, WRONG = "loaded", "stored", "WRONG"
"""What the log counts: blocks read from the pool and found right, stored, and holding what they should not."""
_IN_HAND = Gauge("legato_chaos_chains_in_hand", "1 while it uses a chain.")


def chain(number: int) -> list[bytes]:
    """Hashes of a chain's blocks."""
    return [hashlib.sha256(f"{number}/{block}".encode()).digest() for block in range(3 + number % _LONGEST_CHAIN)]


def content(block_hash: bytes) -> kv.Arena:
    """What the block holds."""
    return np.random.default_rng(int.from_bytes(block_hash[:8], "big")).integers(0, 256, BLOCK_BYTES, np.uint8)


class User:
    """One chain after the other, until the file `closed` is there."""

    def __init__(self, client: PoolClient, closed: Path) -> None:
        self._client = client
        self._closed = closed
        self._random = Random()

    async def run(self) -> None:
        while True:
            if not self._closed.exists():
                with _IN_HAND.track_inprogress():
                    await self._use(self._random.randrange(_NUM_CHAINS))
            await asyncio.sleep(self._random.expovariate(4.0))

    async def _use(self, number: int) -> None:
        user = kv_pb2.KVUser(program_id=f"chaos-{number}", tenant="default")
        num_loaded = await self._load(chain(number), user)
        if num_loaded is not None:
            await self._store(chain(number), num_loaded, user)
        self._client.finish_call(user)

    async def _load(self, hashes: list[bytes], user: kv_pb2.KVUser) -> int | None:
        """Read the blocks that the pool has; how many. None: it does not answer."""
        request = kvpool_pb2.AcquireRequest(
            lease_id=uuid4().hex, namespace_id=self._client.namespace_id, block_hashes=kv.joined(hashes), user=user
        )
        request.wait.CopyFrom(_duration(_WAIT_SECONDS))
        request.duration.CopyFrom(_duration(10.0))
        answer = await asyncio.wrap_future(self._client.acquire(request, _WAIT_SECONDS))
        arena = answer and self._client.arena(answer.arena_id)
        if answer is None or arena is None:
            return None
        await asyncio.sleep(_HOLD_SECONDS)
        corrupt, num_right = list[int](), 0
        for index, (offset, checksum) in enumerate(zip(answer.offsets, answer.checksums, strict=True)):
            block = arena[offset : offset + BLOCK_BYTES].copy()  # its lease may lapse while we look
            if kv.checksum(block) != checksum:
                corrupt.append(index)  # which an engine would compute
            elif not np.array_equal(block, content(hashes[index])):
                _log.error("%s: block %d of %d", WRONG, index, len(hashes))
            else:
                num_right += 1
        _log.info("%s %d blocks", LOADED, num_right)
        lease = kvpool_pb2.ReleasedLease(lease_id=request.lease_id, corrupt_blocks=corrupt)
        self._client.release(lease)
        return len(answer.offsets)

    async def _store(self, hashes: list[bytes], begin: int, user: kv_pb2.KVUser) -> None:
        """Store the blocks from `begin` on, where there is room for them."""
        if begin >= len(hashes):
            return
        request = kvpool_pb2.BeginStoreRequest(
            namespace_id=self._client.namespace_id,
            block_hashes=kv.joined(hashes[begin:]),
            parent_hash=hashes[begin - 1] if begin else b"",
            first_block=begin,
            user=user,
        )
        request.duration.CopyFrom(_duration(5.0))
        answer = await asyncio.wrap_future(self._client.begin_store(request))
        arena = answer and self._client.arena(answer.arena_id)
        if answer is None or arena is None or not answer.reservation_id:
            return
        checksums: list[int] = []
        for block_hash, offset in zip(hashes[begin:], answer.offsets, strict=True):
            if offset != kv.NO_ROOM:
                block = arena[offset : offset + BLOCK_BYTES]
                block[:] = content(block_hash)
                checksums.append(kv.checksum(block))
        await asyncio.sleep(_HOLD_SECONDS)
        done = await asyncio.wrap_future(self._client.commit(answer.reservation_id, checksums, _HOLD_SECONDS))
        _log.info("%s %d blocks", STORED, done.num_blocks if done is not None else 0)


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


async def _main() -> None:
    settings = config.load(Settings)
    telemetry.configure(settings.telemetry, "kvuser")
    client = PoolClient(f"unix:{settings.kvpool.directory}/pool.sock", _NAMESPACE)
    async with telemetry.serve_metrics(settings.cluster.host, settings.telemetry.metrics_port):
        try:
            await User(client, Path(sys.argv[1])).run()
        finally:
            client.close()


if __name__ == "__main__":
    asyncio.run(_main())
