"""The gateway as a running service: both doors, the stream to the scheduler, the streams to workers."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata

from services.common import registry, state
from services.common.registry import Member
from services.common.server import Door, grpc_server
from services.gateway import access, call_log, certificate
from services.gateway.calls import Calls
from services.gateway.closing import Closing
from services.gateway.config import Settings
from services.gateway.grpc_api import GrpcDoor
from services.gateway.http import HttpDoor, serving
from services.gateway.idempotency import Answers
from services.gateway.identity import fresh_id
from services.gateway.leader import Leader
from services.gateway.models import Models
from services.gateway.schedule import Scheduler
from services.gateway.workers import Workers
from services.gateway.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Running:
    """Where it can be reached, as host:port."""

    gateway_id: str
    address: str
    """gRPC."""
    http_address: str


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running]:
    """Serve until left; then no new calls are taken and live ones have `drain_seconds` to end."""
    section = settings.gateway
    gateway_id = f"gateway-{fresh_id()}"
    async with (
        registry.connect(settings.registry, settings.cluster.name) as members,
        state.connect(settings.state, settings.cluster.name) as store,
        asyncio.TaskGroup() as tasks,
        call_log.writing(tasks, store, section.call_log_entries, section.call_log_bytes) as log,
    ):
        scheduler = Scheduler(gateway_id, section.scheduler_grace_seconds)
        models = Models(members, section)
        workers = Workers(tasks, scheduler.outgrow)
        calls = Calls(section, models, scheduler, workers, log)
        closing = Closing(scheduler, calls.programs)
        calls.admit = closing.check
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, closing.begin)
        workflow = Workflow(members)
        answers = Answers(tasks, store, section)
        followers = [tasks.create_task(work.run()) for work in (Leader(members, scheduler), models, workflow, closing)]
        try:
            grpc_door = GrpcDoor(calls, scheduler, log, workflow)
            async with _doors(settings, calls, answers, models, scheduler, grpc_door, gateway_id) as doors:
                address, http_address = doors.address, doors.http_address
                member = Member("gateway", gateway_id, address, {"http": http_address})
                async with members.announce(member):
                    yield doors
        finally:
            for follower in followers:
                follower.cancel()
            workers.close()
            scheduler.close()


@asynccontextmanager
async def _doors(
    settings: Settings,
    calls: Calls,
    answers: Answers,
    models: Models,
    scheduler: Scheduler,
    grpc_door: GrpcDoor,
    gateway_id: str,
) -> AsyncGenerator[Running]:
    def unready() -> str | None:
        if not scheduler.connected:
            return "no scheduler can be reached"
        return None if models.ready else "no worker is ready"

    section, cluster = settings.gateway, settings.cluster
    keys = access.read(section.api_keys_file)
    shown = certificate.read(section.cert_file, section.key_file)
    door = Door(shown and shown.credentials, keys and access.grpc_guard(keys))
    http_door = HttpDoor(calls, answers, unready, _version(), keys)
    async with AsyncExitStack() as grpc_open, AsyncExitStack() as http_open:
        server = await grpc_open.enter_async_context(
            grpc_server(
                grpc_door.add_to, host=cluster.host, port=section.port, drain_seconds=cluster.drain_seconds, door=door
            )
        )
        http_port = await http_open.enter_async_context(
            serving(http_door, cluster.host, section.http_port, cluster.drain_seconds, shown and shown.context)
        )
        host = server.address.rpartition(":")[0]
        try:
            yield Running(gateway_id, server.address, f"{host}:{http_port}")
        finally:
            async with asyncio.TaskGroup() as closing:  # both drain at once, so one deadline holds for both
                closing.create_task(grpc_open.aclose())
                closing.create_task(http_open.aclose())


def _version() -> str:
    try:
        return metadata.version("legato")
    except metadata.PackageNotFoundError:
        return "unknown"  # a checkout that was never installed
