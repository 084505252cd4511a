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


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running]:
    """Run until left. Does not wait for the election. Calls in flight are the next leader's after that."""
    servicer = SchedulerServicer()

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
        scheduler_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        scheduler = Running(scheduler_id, server.address)
        await stack.enter_async_context(members.announce(Member("scheduler", scheduler_id, server.address, {})))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        leader = tasks.create_task(_stand(settings, servicer, scheduler, members, store), name="stand for election")
        stack.callback(leader.cancel)
        yield scheduler


async def _stand(
    settings: Settings, servicer: SchedulerServicer, scheduler: Running, members: Registry, store: Store
) -> None:
    """Stand for election, serve a term, and again."""
    while True:
        async with (
            members.lead(_ELECTION, scheduler.scheduler_id) as leadership,
            _leading(settings, servicer, scheduler, members, store, leadership),
        ):
            await leadership.lost.wait()
        _log.warning("%s no longer leads", scheduler.scheduler_id)


@contextlib.asynccontextmanager
async def _leading(
    settings: Settings,
    servicer: SchedulerServicer,
    scheduler: Running,
    members: Registry,
    store: Store,
    leadership: Leadership,
) -> AsyncGenerator[None]:
    section = settings.scheduler
    term = Term(section)
    await archive.restore(term, store)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watcher.watch(term, members), name="watch workers")
        pools = tasks.create_task(pool_watcher.watch(term, members), name="watch pools")
        forecasts = tasks.create_task(workflow_watcher.watch(term, members), name="watch forecasts")
        saving = tasks.create_task(
            archive.keep(term, store, section.save_seconds, section.program_idle_seconds), name="save programs"
        )
        servicer.term = term
        scheduler.leading.set()
        metrics.LEADING.set(1)
        _log.info("%s leads", scheduler.scheduler_id)
        try:
            yield
        finally:
            servicer.term = None
            scheduler.leading.clear()
            metrics.LEADING.set(0)
            term.end()
            watching.cancel()
            pools.cancel()
            forecasts.cancel()
            saving.cancel()
            await asyncio.wait([saving])  # what it was writing is unsaved again
            if not leadership.lost.is_set():  # else the records are the next leader's by now
                await archive.save(term, store, section.program_idle_seconds)
