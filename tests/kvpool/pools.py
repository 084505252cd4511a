"""A real pool for tests, and a worker's side of it: its own mapping of the memory, and the RPCs."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from legato.v1 import kv_pb2, kvpool_pb2, kvpool_pb2_grpc
from services.common import kv, rpc
from services.common.config import ClusterSection, KVPoolSection, RegistrySection
from services.kvpool.config import Settings

MIB = 1024 * 1024
SHARD_BYTES = 64 * 1024
SECONDS = 10.0
"""Bound on whatever a test waits for."""
NAMESPACE = kv_pb2.KVNamespace(
    model="m", revision="1", dtype="float32", block_size=32, layout="test", num_shards=2, shard_bytes=SHARD_BYTES
)

_numbers = itertools.count(1)


def settings(endpoint: str, folder: Path, cluster: str, **values: object) -> Settings:
    """Of a pool that keeps its files in `folder`."""
    section: dict[str, object] = {
        "name": "p",
        "directory": str(folder / "pool"),
        "dram_bytes": 4 * MIB,
        "ssd_bytes": 8 * MIB,
        "retention": "lru",
    }
    return Settings(
        cluster=ClusterSection(name=cluster),
        registry=RegistrySection(endpoints=(endpoint,), lease_seconds=2),
        kvpool=KVPoolSection.model_validate(section | values),
    )


def chain(name: str, num_blocks: int) -> list[bytes]:
    """Hashes that follow one another; the same for the same name."""
    return [hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(num_blocks)]


def content(block_hash: bytes, shard: int) -> kv.Arena:
    """The bytes of a shard of that block."""
    return np.random.default_rng([shard, *block_hash]).integers(0, 256, SHARD_BYTES, np.uint8)


@dataclass
class Worker:
    """A worker's connector, much simplified: it stores and loads both shards."""

    stub: kvpool_pb2_grpc.KVPoolServiceStub
    attached: kvpool_pb2.AttachResponse
    arena: kv.Arena
    leases: list[str] = field(default_factory=list[str])

    @property
    def namespace_id(self) -> str:
        return self.attached.namespace_id

    async def begin(
        self, hashes: Sequence[bytes], shard: int = 0, seconds: float = 5, program: str = "prog"
    ) -> kvpool_pb2.BeginStoreResponse:
        request = kvpool_pb2.BeginStoreRequest(
            namespace_id=self.namespace_id,
            block_hashes=kv.joined(hashes),
            shard=shard,
            user=kv_pb2.KVUser(program_id=program, thread="t"),
        )
        request.duration.FromNanoseconds(int(seconds * 1e9))
        return await self.stub.BeginStore(request, timeout=SECONDS)

    async def store(self, hashes: Sequence[bytes], program: str = "prog") -> int:
        """Write all shards of the blocks. Returns how many can be read now, of those that were not there before."""
        num_blocks = 0
        for shard in range(NAMESPACE.num_shards):
            begun = await self.begin(hashes, shard, program=program)
            if not begun.reservation_id:
                continue
            sums: list[int] = []
            for block_hash, offset in zip(hashes, begun.offsets, strict=True):
                if offset != kv.NO_ROOM:
                    start = offset + shard * SHARD_BYTES
                    self.arena[start : start + SHARD_BYTES] = content(block_hash, shard)
                    sums.append(kv.checksum(content(block_hash, shard)))
            request = kvpool_pb2.CommitRequest(reservation_id=begun.reservation_id, checksums=sums, copy_seconds=0.01)
            num_blocks += (await self.stub.Commit(request, timeout=SECONDS)).num_blocks
        return num_blocks

    async def acquire(
        self, hashes: Sequence[bytes], wait: float = 2, seconds: float = 5, num_held: int = 0, program: str = "prog"
    ) -> kvpool_pb2.AcquireResponse:
        request = kvpool_pb2.AcquireRequest(
            lease_id=f"lease-{next(_numbers)}",
            namespace_id=self.namespace_id,
            block_hashes=kv.joined(hashes),
            num_held=num_held,
            user=kv_pb2.KVUser(program_id=program, thread="t"),
        )
        request.wait.FromNanoseconds(int(wait * 1e9))
        request.duration.FromNanoseconds(int(seconds * 1e9))
        self.leases.append(request.lease_id)
        return await self.stub.Acquire(request, timeout=SECONDS)

    async def call(self, hashes: Sequence[bytes], program: str = "prog") -> kvpool_pb2.AcquireResponse:
        """A whole call of the program: it begins, reads what is there, stores what is not, and ends."""
        acquired = await self.acquire(hashes, program=program)
        assert self.right(hashes, acquired)
        await self.release()
        await self.store(hashes, program)
        request = kvpool_pb2.FinishCallRequest(
            namespace_id=self.namespace_id, user=kv_pb2.KVUser(program_id=program, thread="t")
        )
        await self.stub.FinishCall(request, timeout=SECONDS)
        return acquired

    async def demote(self, num_on_disk: int, program: str = "prog") -> None:
        """Send the program's blocks to disk, and wait until so many blocks are there in all."""
        await self.stub.Demote(kvpool_pb2.DemoteRequest(program_id=program), timeout=SECONDS)
        async with asyncio.timeout(SECONDS):
            while (await self.status()).tiers[1].num_blocks < num_on_disk:  # each round is an RPC
                pass

    async def release(self, **values: object) -> None:
        """All leases."""
        leases = [kvpool_pb2.ReleasedLease(lease_id=lease_id, **values) for lease_id in self.leases]  # pyright: ignore[reportArgumentType] (fields by name)
        self.leases.clear()
        await self.stub.Release(kvpool_pb2.ReleaseRequest(leases=leases), timeout=SECONDS)

    def right(self, hashes: Sequence[bytes], acquired: kvpool_pb2.AcquireResponse) -> bool:
        """Whether the memory holds these blocks where the pool says, with the checksums that it says."""
        sums = iter(acquired.checksums)
        for block_hash, offset in zip(hashes, acquired.offsets, strict=False):
            for shard in range(NAMESPACE.num_shards):
                start = offset + shard * SHARD_BYTES
                found = self.arena[start : start + SHARD_BYTES]
                if kv.checksum(found) != next(sums) or (found != content(block_hash, shard)).any():
                    return False
        return True

    async def status(self) -> kvpool_pb2.PoolStatus:
        return (await self.stub.Status(kvpool_pb2.StatusRequest(), timeout=SECONDS)).status


@asynccontextmanager
async def worker(address: str) -> AsyncGenerator[Worker]:
    """Attached to the pool there."""
    async with rpc.channel(address) as channel:
        stub = kvpool_pb2_grpc.KVPoolServiceStub(channel)
        request = kvpool_pb2.AttachRequest(namespace=NAMESPACE, pid=1)
        attached = await stub.Attach(request, timeout=SECONDS, wait_for_ready=True)
        yield Worker(stub, attached, kv.map_arena(attached.arena_path, attached.arena_bytes))
