"""A pool for the connector's tests: a dictionary and shared memory behind the real service, and ways to misbehave."""

import asyncio
import itertools
import mmap
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from legato.v1 import kv_pb2, kvpool_pb2, kvpool_pb2_grpc
from services.common import kv

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Block:
    """One block's place."""

    offset: int
    checksums: list[int]
    committed: bool = False


@dataclass
class FakePool(kvpool_pb2_grpc.KVPoolServiceServicer):
    """It answers while `may_answer` is set; `before_commit` runs when a commit came and before it counts."""

    path: Path
    arena: kv.Arena
    arena_id: str = field(default_factory=lambda: secrets.token_hex(8))
    namespaces: dict[str, kv_pb2.KVNamespace] = field(default_factory=dict[str, kv_pb2.KVNamespace])
    blocks: dict[tuple[str, bytes], Block] = field(default_factory=dict[tuple[str, bytes], Block])
    reserved: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict[str, list[tuple[str, bytes]]])
    leases: set[str] = field(default_factory=set[str])
    acquired: list[kvpool_pb2.AcquireRequest] = field(default_factory=list[kvpool_pb2.AcquireRequest])
    begun: list[kvpool_pb2.BeginStoreRequest] = field(default_factory=list[kvpool_pb2.BeginStoreRequest])
    released: list[kvpool_pb2.ReleasedLease] = field(default_factory=list[kvpool_pb2.ReleasedLease])
    finished: Counter[str] = field(default_factory=Counter[str])
    num_aborted: int = 0
    num_asked: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    misplaced_bytes: int = 0
    """Offsets that it tells are wrong by so much."""
    before_commit: Callable[[], None] = lambda: None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _used_bytes: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until requests have made it so."""
        async with self.changed, asyncio.timeout(20):
            await self.changed.wait_for(happened)

    def has(self, block_hashes: list[bytes]) -> bool:
        """Whether all of these can be read, in some namespace."""
        committed = {key for (_, key), block in self.blocks.items() if block.committed}
        return set(block_hashes) <= committed

    def spoil(self, block_hash: bytes) -> None:
        """Change a byte of a block."""
        for (_, key), block in self.blocks.items():
            if key == block_hash:
                self.arena[block.offset + 5] ^= 0xFF

    def forget(self) -> None:
        """As if started anew, with other memory."""
        self.arena_id = secrets.token_hex(8)
        self.namespaces.clear()
        self.blocks.clear()
        self.reserved.clear()
        self._used_bytes = 0

    async def Attach(self, request: kvpool_pb2.AttachRequest, context: Context) -> kvpool_pb2.AttachResponse:
        await self._told(context)
        namespace_id = kv.namespace_id(request.namespace)
        self.namespaces[namespace_id] = request.namespace
        return kvpool_pb2.AttachResponse(
            namespace_id=namespace_id,
            pool_id="fake",
            arena_path=str(self.path),
            arena_bytes=len(self.arena),
            arena_id=self.arena_id,
        )

    async def Acquire(self, request: kvpool_pb2.AcquireRequest, context: Context) -> kvpool_pb2.AcquireResponse:
        self.acquired.append(request)
        await self._told(context, request.namespace_id)
        answer = kvpool_pb2.AcquireResponse(arena_id=self.arena_id)
        for i, key in enumerate(kv.split(request.block_hashes)):
            block = self.blocks.get((request.namespace_id, key))
            if block is None or not block.committed:
                break
            if i >= request.num_held:
                answer.offsets.append(block.offset + self.misplaced_bytes)
                answer.checksums.extend(block.checksums)
        self.leases.add(request.lease_id)
        return answer

    async def Release(self, request: kvpool_pb2.ReleaseRequest, context: Context) -> kvpool_pb2.ReleaseResponse:
        await self._told(context)
        for lease in request.leases:
            self.released.append(lease)
            self.leases.discard(lease.lease_id)
        await self._tell()
        return kvpool_pb2.ReleaseResponse()

    async def BeginStore(
        self, request: kvpool_pb2.BeginStoreRequest, context: Context
    ) -> kvpool_pb2.BeginStoreResponse:
        self.begun.append(request)
        await self._told(context, request.namespace_id)
        namespace = self.namespaces[request.namespace_id]
        block_bytes = namespace.num_shards * namespace.shard_bytes
        reservation_id = f"r{next(self._numbers)}"
        answer = kvpool_pb2.BeginStoreResponse(reservation_id=reservation_id, arena_id=self.arena_id)
        given = self.reserved.setdefault(reservation_id, [])
        for key in kv.split(request.block_hashes):
            name = (request.namespace_id, key)
            if name in self.blocks or self._used_bytes + block_bytes > len(self.arena):
                answer.offsets.append(kv.NO_ROOM)
                continue
            self.blocks[name] = Block(self._used_bytes, [0] * namespace.num_shards)
            given.append(name)
            answer.offsets.append(self._used_bytes + self.misplaced_bytes)
            self._used_bytes += block_bytes
        return answer

    async def Commit(self, request: kvpool_pb2.CommitRequest, context: Context) -> kvpool_pb2.CommitResponse:
        self.before_commit()
        await self._told(context)
        given = self.reserved.pop(request.reservation_id, None)
        if given is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "lapsed")
        for name, checksum in zip(given, request.checksums, strict=True):
            self.blocks[name].checksums = [checksum]
            self.blocks[name].committed = True
        await self._tell()
        return kvpool_pb2.CommitResponse(num_blocks=len(given))

    async def Abort(self, request: kvpool_pb2.AbortRequest, context: Context) -> kvpool_pb2.AbortResponse:
        await self._told(context)
        self.num_aborted += 1
        for name in self.reserved.pop(request.reservation_id, ()):
            del self.blocks[name]
        return kvpool_pb2.AbortResponse()

    async def FinishCall(
        self, request: kvpool_pb2.FinishCallRequest, context: Context
    ) -> kvpool_pb2.FinishCallResponse:
        await self._told(context)
        self.finished[request.user.program_id] += 1
        await self._tell()
        return kvpool_pb2.FinishCallResponse()

    async def _told(self, context: Context, namespace_id: str = "") -> None:
        self.num_asked += 1
        await self._tell()
        await self.may_answer.wait()
        if namespace_id and namespace_id not in self.namespaces:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown namespace")

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def make_pool(directory: Path, num_bytes: int) -> FakePool:
    """With its memory, which lies in the directory."""
    path = directory / "arena"
    path.write_bytes(bytes(num_bytes))
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), num_bytes)
    pool = FakePool(path, np.frombuffer(mapping, np.uint8))  # pyright: ignore[reportAbstractUsage] (RPCs that no worker calls)
    pool.may_answer.set()
    return pool


@dataclass
class Door:
    """Where workers reach a pool; it can be shut and opened again."""

    pool: FakePool
    path: Path
    server: grpc.aio.Server | None = None

    async def open(self) -> None:
        """Be there."""
        self.server = grpc.aio.server()
        kvpool_pb2_grpc.add_KVPoolServiceServicer_to_server(self.pool, self.server)
        self.server.add_insecure_port(f"unix:{self.path}")
        await self.server.start()

    async def shut(self) -> None:
        """Be gone at once."""
        assert self.server is not None
        self.pool.may_answer.set()
        await self.server.stop(None)
        self.path.unlink(missing_ok=True)


@asynccontextmanager
async def serving(pool: FakePool, directory: Path) -> AsyncGenerator[Door]:
    """Be reached where workers look for it."""
    door = Door(pool, directory / "pool.sock")
    await door.open()
    try:
        yield door
    finally:
        await door.shut()
