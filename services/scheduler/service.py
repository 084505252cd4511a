"""The scheduler as a service: stands for election, and while it leads serves gateways and watches workers and pools.

Until it leads, and when it no longer does, it answers NOT_LEADER; gateways then try the next scheduler.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import grpc

from legato.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.common import registry, state
from services.common.registry import Leadership, Member, Registry
from services.common.server import grpc_server
from services.common.state import Store
from services.scheduler import archive, metrics, pool_watcher, watcher, workflow_watcher
from services.scheduler.config import Settings
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.term import Term
from services.scheduler.vigil import Vigil

_log = logging.getLogger(__name__)

_SERVICE = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_STREAMS_END_SECONDS = 1.0
"""How long streams that were told to end may take."""
_ELECTION = "scheduler"


@dataclass(frozen=True, slots=True)
class Running:
    """A scheduler that serves or stands by."""

    scheduler_id: str
    address: str
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it leads."""


@dataclass(frozen=True, slots=True)
class _Own:
    """What a scheduler has all its life."""

    settings: Settings
    servicer: SchedulerServicer
    scheduler: Running
    members: Registry
    store: Store
    vigil: Vigil

    def begin(self, term: Term, elected_at: float) -> None:
        """Gateways are served from here on."""
        found_dead_at, self.vigil.found_dead_at = self.vigil.found_dead_at, None
        since = elected_at if found_dead_at is None else found_dead_at
        seconds = asyncio.get_running_loop().time() - since
        self.scheduler.leading.set()
        metrics.LEADING.set(1)
        metrics.TERM.set(term.number)
        metrics.TERMS.inc()
        metrics.TAKEOVER_SECONDS.set(seconds)
        why = "its election" if found_dead_at is None else "it found the leader before dead"
        _log.info("%s leads term %d, %.3f s after %s", self.scheduler.scheduler_id, term.number, seconds, why)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running]:
    """Run until left. Does not wait for the election. Calls in flight are the next leader's after that."""
    servicer = SchedulerServicer(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")

    def add(server: grpc.aio.Server) -> tuple[str]:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)
        return (_SERVICE,)

    section, cluster = settings.scheduler, settings.cluster
    async with contextlib.AsyncExitStack() as stack:
        members = await stack.enter_async_context(registry.connect(settings.registry, cluster.name))
        store = await stack.enter_async_context(state.connect(settings.state, cluster.name))
        server = await stack.enter_async_context(
            grpc_server(add, host=cluster.host, port=section.port, drain_seconds=_STREAMS_END_SECONDS)
        )
        stack.callback(servicer.ended.set)
        scheduler = Running(servicer.scheduler_id, server.address)
        member = Member("scheduler", scheduler.scheduler_id, server.address, {})
        await stack.enter_async_context(members.announce(member))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        vigil = Vigil(members, _ELECTION, scheduler.scheduler_id)
        own = _Own(settings, servicer, scheduler, members, store, vigil)
        for work in (tasks.create_task(vigil.keep()), tasks.create_task(_stand(own), name="stand for election")):
            stack.callback(work.cancel)
        yield scheduler


async def _stand(own: _Own) -> None:
    """Stand for election, serve a term, and again."""
    scheduler, latest_term = own.scheduler, 0
    while True:
        async with (
            own.members.lead(_ELECTION, scheduler.scheduler_id, scheduler.address, above=latest_term) as leadership,
            _leading(own, leadership),
        ):
            await leadership.lost.wait()
        latest_term = max(latest_term, leadership.term, leadership.later_term)
        _log.warning("%s no longer leads", scheduler.scheduler_id)


@contextlib.asynccontextmanager
async def _leading(own: _Own, leadership: Leadership) -> AsyncGenerator[None]:
    section, servicer, store = own.settings.scheduler, own.servicer, own.store
    elected_at = asyncio.get_running_loop().time()
    term = Term(section, leadership)
    keeper = archive.Archive(term, store, section.save_seconds, section.program_idle_seconds)
    servicer.settled.clear()
    try:
        await keeper.open()
    finally:
        servicer.settled.set()
    async with asyncio.TaskGroup() as tasks:
        watching = [
            tasks.create_task(watcher.watch(term, own.members), name="watch workers"),
            tasks.create_task(pool_watcher.watch(term, own.members), name="watch pools"),
            tasks.create_task(workflow_watcher.watch(term, own.members), name="watch forecasts"),
        ]
        saving = tasks.create_task(keeper.keep(), name="save programs")
        servicer.term = term
        own.begin(term, elected_at)
        try:
            yield
        finally:
            servicer.term = None
            own.scheduler.leading.clear()
            metrics.LEADING.set(0)
            term.end()
            for work in (*watching, saving):
                work.cancel()
            await asyncio.wait([saving])  # what it was writing is unsaved again
            if not leadership.lost.is_set():  # else the records are the next leader's by now
                await keeper.save()
