"""Watches the KV pools: follows the registry's list, holds one WatchReplicas stream to each, and tells the core what
they say.

A pool whose stream breaks is away: what it holds is not counted on until it answers again, and is then taken up where
the stream broke, if the pool still knows. It is forgotten when the registry no longer lists it.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

import grpc

from legato.v1 import kvpool_pb2, kvpool_pb2_grpc
from services.common import rpc
from services.common.backoff import Backoff
from services.common.errors import Reason
from services.common.registry import Member, Registry
from services.scheduler import kv_translation, metrics
from services.scheduler.errands import Errands
from services.scheduler.members import follow_each
from services.scheduler.pool_events import PoolAway, PoolLost
from services.scheduler.term import PoolLink, Term

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


async def watch(term: Term, registry: Registry) -> None:
    """Follow the pools until cancelled."""
    follower = _Follower(term)
    await follow_each(registry, "kvpool", follower.follow, follower.expect)


@dataclass(slots=True)
class _Position:
    """How far a pool's changes are known."""

    revision: int = 0
    arena_id: str = ""


class _Follower:
    def __init__(self, term: Term) -> None:
        self._term = term
        self._positions: dict[str, _Position] = {}

    def expect(self, pool_ids: Collection[str]) -> None:
        """The list as it is now."""
        links = self._term.pools
        for pool_id in [pool_id for pool_id in links if pool_id not in pool_ids]:
            del links[pool_id]
            self._positions.pop(pool_id, None)
            self._term.feed(PoolLost(pool_id))
        for pool_id in pool_ids:
            if pool_id not in links:
                links[pool_id] = PoolLink(pool_id, Errands(pool_id))

    async def follow(self, member: Member) -> None:
        """Hold the pool's stream, again and again, and run errands to it."""
        link = self._term.pools[member.id]
        async with rpc.channel(member.address, "kvpool") as channel, asyncio.TaskGroup() as tasks:
            link.stub = kvpool_pb2_grpc.KVPoolServiceStub(channel)
            tasks.create_task(link.errands.run(link.stub), name=f"errands to {member.id}")
            backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            while True:
                if await self._hear(member.id, link.stub):
                    backoff.reset()
                await backoff.pause()

    async def _hear(self, pool_id: str, stub: kvpool_pb2_grpc.KVPoolServiceStub) -> bool:
        """Hold one stream until it ends or turns out to be another pool's; whether the pool said anything, and may
        again soon."""
        position = self._positions.setdefault(pool_id, _Position())
        heard = stops = False
        request = kvpool_pb2.WatchReplicasRequest(since=position.revision, arena_id=position.arena_id)
        stream = stub.WatchReplicas(request, wait_for_ready=True)
        try:
            async for response in stream:
                if not heard:
                    if response.description.pool_id != pool_id:
                        _log.warning("pool %s is gone: %r answers", pool_id, response.description.pool_id)
                        break
                    heard = True
                    metrics.POOLS.inc()
                    position.arena_id = response.description.arena_id
                    self._term.feed(kv_translation.pool_joined(response.description))
                position.revision = response.revision
                self._term.feed(kv_translation.pool_reported(pool_id, response))
        except grpc.aio.AioRpcError as error:
            failure = rpc.failure_from(error)
            stops = failure.reason is Reason.DRAINING
            _log.warning("pool %s: watching ended: %s", pool_id, failure)
        finally:
            stream.cancel()
            if heard:
                metrics.POOLS.dec()
                self._term.feed(PoolAway(pool_id))
        return heard and not stops
