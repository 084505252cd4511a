"""KVPoolService over one live pool."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import grpc

from legato.v1 import kvpool_pb2, kvpool_pb2_grpc
from services.common.errors import Failure, Reason
from services.kvpool import events, metrics, translation
from services.kvpool.actions import (
    AnswerAcquire,
    AnswerAttach,
    AnswerBeginStore,
    AnswerCommit,
    AnswerDemote,
    AnswerPrefetch,
)
from services.kvpool.arena import SharedArena
from services.kvpool.pool import Pool

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.05
"""Between two responses of a watch; what changes meanwhile is merged."""

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class KVPoolServicer(kvpool_pb2_grpc.KVPoolServiceServicer):
    """Everything runs on the event loop's thread."""

    def __init__(self, pool: Pool, arena: SharedArena, description: kvpool_pb2.PoolDescription, retention: str) -> None:
        self._pool = pool
        self._arena = arena
        self._description = description
        self._retention = retention

    async def Attach(self, request: kvpool_pb2.AttachRequest, context: _Context) -> kvpool_pb2.AttachResponse:
        namespace_id, event = translation.attach(request.namespace)
        await self._pool.ask(event, AnswerAttach)
        _log.info("process %d uses namespace %s (%s)", request.pid, namespace_id, request.namespace.model)
        return kvpool_pb2.AttachResponse(
            namespace_id=namespace_id,
            pool_id=self._pool.pool_id,
            arena_path=self._arena.path,
            arena_bytes=self._arena.num_bytes,
            arena_id=self._arena.arena_id,
        )

    async def MatchPrefix(
        self, request: kvpool_pb2.MatchPrefixRequest, context: _Context
    ) -> kvpool_pb2.MatchPrefixResponse:
        hashes = translation.chain(request.block_hashes, "block_hashes")
        match = self._pool.core.match(request.namespace_id, hashes)
        if match is None:
            message = f"unknown KV namespace {request.namespace_id!r}"
            raise Failure(Reason.MODEL_NOT_FOUND, message, "namespace_id")
        return kvpool_pb2.MatchPrefixResponse(num_blocks=match.num_blocks, num_dram_blocks=match.num_dram_blocks)

    async def Acquire(self, request: kvpool_pb2.AcquireRequest, context: _Context) -> kvpool_pb2.AcquireResponse:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await self._pool.ask(translation.acquire(request, self._pool.pool_id), AnswerAcquire)
        metrics.ACQUIRE_SECONDS.observe(loop.time() - began)
        return kvpool_pb2.AcquireResponse(
            offsets=answer.offsets,
            checksums=answer.checksums,
            arena_id=self._arena.arena_id,
            num_from_ssd=answer.num_from_ssd,
            num_from_peer=answer.num_from_peer,
        )

    async def Release(self, request: kvpool_pb2.ReleaseRequest, context: _Context) -> kvpool_pb2.ReleaseResponse:
        event = translation.release(request)
        for lease in event.leases:
            self._pool.speeds.learn("dram", lease.num_bytes, lease.copy_seconds)
        self._pool.feed(event)
        return kvpool_pb2.ReleaseResponse()

    async def BeginStore(
        self, request: kvpool_pb2.BeginStoreRequest, context: _Context
    ) -> kvpool_pb2.BeginStoreResponse:
        answer = await self._pool.ask(translation.begin_store(request), AnswerBeginStore)
        return kvpool_pb2.BeginStoreResponse(
            reservation_id=answer.reservation_id, offsets=answer.offsets, arena_id=self._arena.arena_id
        )

    async def Commit(self, request: kvpool_pb2.CommitRequest, context: _Context) -> kvpool_pb2.CommitResponse:
        answer = await self._pool.ask(translation.commit(request), AnswerCommit)
        return kvpool_pb2.CommitResponse(num_blocks=answer.num_blocks)

    async def Abort(self, request: kvpool_pb2.AbortRequest, context: _Context) -> kvpool_pb2.AbortResponse:
        self._pool.feed(events.Abort(translation.id_of(request.reservation_id, "reservation_id")))
        return kvpool_pb2.AbortResponse()

    async def FinishCall(
        self, request: kvpool_pb2.FinishCallRequest, context: _Context
    ) -> kvpool_pb2.FinishCallResponse:
        self._pool.feed(translation.finish(request))
        return kvpool_pb2.FinishCallResponse()

    async def Prefetch(self, request: kvpool_pb2.PrefetchRequest, context: _Context) -> kvpool_pb2.PrefetchResponse:
        answer = await self._pool.ask(translation.prefetch(request, self._pool.pool_id), AnswerPrefetch)
        return kvpool_pb2.PrefetchResponse(num_blocks=answer.num_blocks)

    async def Demote(self, request: kvpool_pb2.DemoteRequest, context: _Context) -> kvpool_pb2.DemoteResponse:
        program_id = translation.id_of(request.program_id, "program_id")
        answer = await self._pool.ask(lambda number: events.Demote(number, program_id), AnswerDemote)
        return kvpool_pb2.DemoteResponse(num_blocks=answer.num_blocks)

    async def ReleaseProgram(
        self, request: kvpool_pb2.ReleaseProgramRequest, context: _Context
    ) -> kvpool_pb2.ReleaseProgramResponse:
        self._pool.feed(events.ReleaseProgram(translation.id_of(request.program_id, "program_id")))
        return kvpool_pb2.ReleaseProgramResponse()

    async def WatchReplicas(
        self, request: kvpool_pb2.WatchReplicasRequest, context: _Context
    ) -> AsyncGenerator[kvpool_pb2.WatchReplicasResponse]:
        pool = self._pool
        revision = request.since if request.arena_id == pool.arena_id else 0
        changes = pool.core.changes_since(revision)
        response = translation.replicas_of(changes, pool)
        response.description.CopyFrom(self._description)
        while True:
            yield response
            await pool.pause(_WATCH_SECONDS)
            await pool.revised(changes.revision)
            changes = pool.core.changes_since(changes.revision)
            response = translation.replicas_of(changes, pool)

    async def Status(self, request: kvpool_pb2.StatusRequest, context: _Context) -> kvpool_pb2.StatusResponse:
        pool = self._pool
        status = translation.status_of(pool.core.status(), pool, self._description, self._retention)
        return kvpool_pb2.StatusResponse(status=status)
