"""The worker: an engine, served to gateways and schedulers and announced in the registry.

A worker whose engine dies tells its streams ENGINE_DEAD and ends with the error; whoever started it starts a new one.
One that is asked to stop takes no more calls, lets the running ones finish, and only then leaves the registry.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from legato.v1 import kv_pb2, worker_pb2, worker_pb2_grpc
from services.common import registry
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry
from services.common.server import grpc_server
from services.worker import engines
from services.worker.config import Settings
from services.worker.engine import Engine, EngineDead
from services.worker.servicer import WorkerServicer

_SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
_STREAMS_END_SECONDS = 1.0
"""How long streams that were told to end may take."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that serves."""

    address: str
    description: worker_pb2.WorkerDescription


@dataclass(frozen=True, slots=True)
class Running:
    """The workers of this process."""

    workers: tuple[Worker, ...]

    @property
    def address(self) -> str:
        """Of the first one."""
        return self.workers[0].address


@asynccontextmanager
async def running(settings: Settings, engine: Engine | None = None) -> AsyncGenerator[Running]:
    """Run this process's workers: `count` simulated ones, or one over vLLM. `engine`: the one of the only worker."""
    count = settings.worker.count if settings.worker.engine == "simulated" and engine is None else 1
    async with contextlib.AsyncExitStack() as stack:
        members = await stack.enter_async_context(registry.connect(settings.registry, settings.cluster.name))
        workers: list[Worker] = []
        servicers: list[WorkerServicer] = []
        for i in range(count):
            made = engine or engines.make(settings)
            servicer = WorkerServicer(made, settings.worker.report_interval_seconds)
            port = settings.worker.port and settings.worker.port + i
            workers.append(await stack.enter_async_context(_worker(settings, members, made, servicer, port)))
            servicers.append(servicer)
        try:
            yield Running(tuple(workers))
        finally:
            async with asyncio.TaskGroup() as tasks:
                for servicer in servicers:
                    tasks.create_task(servicer.drain(settings.cluster.drain_seconds))


@asynccontextmanager
async def _worker(
    settings: Settings, members: Registry, engine: Engine, servicer: WorkerServicer, port: int
) -> AsyncGenerator[Worker]:
    def add(server: grpc.aio.Server) -> tuple[str]:
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
        return (_SERVICE,)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        description = await engine.start(servicer)
        # Another one for each life: what is known of an earlier life's cache must not be taken for this one's.
        description.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        description.role = kv_pb2.WorkerRole.Value(f"WORKER_ROLE_{settings.worker.role.upper()}")
        servicer.describe(description)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        engine_task = tasks.create_task(_run(engine, servicer))
        stack.callback(engine_task.cancel)
        server = await stack.enter_async_context(
            grpc_server(add, host=settings.cluster.host, port=port, drain_seconds=_STREAMS_END_SECONDS)
        )
        metadata = {"model": description.model, "engine": description.engine}
        member = Member("worker", description.worker_id, server.address, metadata)
        await stack.enter_async_context(members.announce(member))
        stack.callback(servicer.end, Failure(Reason.DRAINING, "the worker has stopped"))
        yield Worker(server.address, description)


async def _run(engine: Engine, servicer: WorkerServicer) -> None:
    try:
        await engine.run()
    except EngineDead as dead:
        servicer.end(Failure(Reason.ENGINE_DEAD, f"the engine is dead: {dead}"))
        raise
