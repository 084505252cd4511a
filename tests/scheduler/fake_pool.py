"""A KV pool that only lets itself be watched and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from legato.v1 import kvpool_pb2, kvpool_pb2_grpc
from services.common.registry import Member, Registry
from services.common.server import grpc_server

NAMESPACE = "n"


class FakePool(kvpool_pb2_grpc.KVPoolServiceServicer):
    """Says what it is, then what it is told to say; None ends the stream."""

    def __init__(self, pool_id: str) -> None:
        self.description = kvpool_pb2.PoolDescription(
            pool_id=pool_id, arena_id="arena", data_address=f"data:{pool_id}", dram_bytes=10**9
        )
        self.revision = 0
        self.dram: list[int] = []
        """What the stream begins with, if it does not resume."""
        self.watches: asyncio.Queue[kvpool_pb2.WatchReplicasRequest] = asyncio.Queue()
        self.says: asyncio.Queue[kvpool_pb2.ReplicaUpdate | None] = asyncio.Queue()
        self.prefetches: asyncio.Queue[kvpool_pb2.PrefetchRequest] = asyncio.Queue()
        self.releases: asyncio.Queue[str] = asyncio.Queue()
        self.num_failing_releases = 0
        self.answers = asyncio.Event()
        """Whether Status answers."""
        self.answers.set()

    async def WatchReplicas(
        self, request: kvpool_pb2.WatchReplicasRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[kvpool_pb2.WatchReplicasResponse]:
        resumed = request.since == self.revision and request.arena_id == self.description.arena_id
        updates = [] if resumed else [kvpool_pb2.ReplicaUpdate(namespace_id=NAMESPACE, dram=self.dram)]
        self.revision += 1
        self.watches.put_nowait(request)
        yield kvpool_pb2.WatchReplicasResponse(
            revision=self.revision, reset=not resumed, description=self.description, updates=updates
        )
        while (update := await self.says.get()) is not None:
            self.revision += 1
            yield kvpool_pb2.WatchReplicasResponse(revision=self.revision, updates=[update])

    async def Prefetch(
        self, request: kvpool_pb2.PrefetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> kvpool_pb2.PrefetchResponse:
        self.prefetches.put_nowait(request)
        return kvpool_pb2.PrefetchResponse()

    async def ReleaseProgram(
        self, request: kvpool_pb2.ReleaseProgramRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> kvpool_pb2.ReleaseProgramResponse:
        if self.num_failing_releases:
            self.num_failing_releases -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        self.releases.put_nowait(request.program_id)
        return kvpool_pb2.ReleaseProgramResponse()

    async def Status(
        self, request: kvpool_pb2.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> kvpool_pb2.StatusResponse:
        await self.answers.wait()
        return kvpool_pb2.StatusResponse(status=kvpool_pb2.PoolStatus(description=self.description, num_leases=3))

    def _unused(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    Attach = MatchPrefix = Acquire = Release = BeginStore = Commit = Abort = FinishCall = Demote = _unused


@asynccontextmanager
async def fake_pool(registry: Registry, pool_id: str, dram: Sequence[int] = ()) -> AsyncGenerator[FakePool]:
    """Serve and announce a pool that holds these blocks. On leaving it is gone at once, as if killed."""
    pool = FakePool(pool_id)
    pool.dram = list(dram)

    def add(server: grpc.aio.Server) -> tuple[str]:
        kvpool_pb2_grpc.add_KVPoolServiceServicer_to_server(pool, server)
        return (kvpool_pb2.DESCRIPTOR.services_by_name["KVPoolService"].full_name,)

    serving = grpc_server(add, host="127.0.0.1", port=0, drain_seconds=0)
    server = await serving.__aenter__()
    async with registry.announce(Member("kvpool", pool_id, server.address, {"data_address": f"data:{pool_id}"})):
        try:
            yield pool
        finally:
            await serving.__aexit__(None, None, None)
