"""Vigil: every scheduler's watch over the one that leads, so that a dead one is followed at once, not after its lease.

A stream is held to the leader. When it breaks, and nobody listens at the leader's address any more or somebody else
does, the process is dead for certain: its key in the election is deleted, and whoever is next leads. Whatever is less
certain is left to the lease, which alone ends the lead of a host that vanished: silence, no route, and a refusal by a
host whose leader was never reached from here, for that may be a firewall's (but for our own host's).
"""

import asyncio
import logging
from contextlib import aclosing

import grpc

from legato.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.common import rpc
from services.common.backoff import Backoff
from services.common.errors import Reason
from services.common.registry import Leader, Registry, Unavailable
from services.scheduler import hosts

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class Vigil:
    """Over whoever leads but is not `scheduler_id`."""

    def __init__(self, registry: Registry, election: str, scheduler_id: str) -> None:
        self._registry = registry
        self._election = election
        self._scheduler_id = scheduler_id
        self.found_dead_at: float | None = None
        """The last leader, by the event loop's clock."""

    async def keep(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        watch: asyncio.Task[None] | None = None
        watched: Leader | None = None
        async with asyncio.TaskGroup() as tasks, aclosing(self._registry.leaders(self._election)) as leaders:
            async for leader in leaders:
                if watch is not None and leader == watched:
                    continue  # other candidates came or went; what is known of this one stays known
                watched = leader
                if watch is not None:
                    watch.cancel()
                watch = None
                if leader is not None and leader.address and leader.id != self._scheduler_id:
                    self.found_dead_at = None
                    watch = tasks.create_task(self._watch(leader), name=f"watch {leader.id}")

    async def _watch(self, leader: Leader) -> None:
        """Stay with one leader until it is dead."""
        reached = await hosts.ours(leader.address)
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            attended, replaced = await _attend(leader)
            if attended:
                reached = True
                backoff.reset()
            if replaced or (reached and await hosts.refused(leader.address)):
                self.found_dead_at = asyncio.get_running_loop().time()
                _log.warning("scheduler %s, which leads, is dead: its lead is ended", leader.id)
                try:
                    await self._registry.depose(leader)
                    return
                except Unavailable as failure:
                    _log.warning("its lead is not ended: %s", failure)
            await backoff.pause()


async def _attend(leader: Leader) -> tuple[bool, bool]:
    """Hold the stream until it ends. Whether the leader was there, and whether another process lives at its address."""
    attended = False
    async with rpc.channel(leader.address, "scheduler") as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        try:
            async for _ in stub.Attend(scheduler_pb2.AttendRequest(scheduler_id=leader.id)):
                attended = True
        except grpc.aio.AioRpcError as error:
            return attended, rpc.failure_from(error).reason is Reason.SCHEDULER_NOT_FOUND
    return attended, False
