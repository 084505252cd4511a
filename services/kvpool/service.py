"""The KV pool as a service: shared memory, disk and core of one life, served to this host's workers through a socket in
`kvpool.directory`, to the cluster over TCP, and to other pools from a data port; announced in the registry.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from legato.v1 import kvpool_pb2, kvpool_pb2_grpc
from services.common import registry
from services.common.config import KVPoolSection, SettingsError
from services.common.registry import Member
from services.common.server import grpc_server
from services.kvpool import arena, metrics, retention, transfers, workflow_watcher
from services.kvpool.arena import SharedArena
from services.kvpool.config import Settings, limits, pool_id
from services.kvpool.core import Core
from services.kvpool.cost import Costs
from services.kvpool.lender import Lender
from services.kvpool.pool import Pool
from services.kvpool.returns import Returns
from services.kvpool.servicer import KVPoolServicer
from services.kvpool.speeds import Speeds
from services.kvpool.transfers import Transfers

_SERVICE = kvpool_pb2.DESCRIPTOR.services_by_name["KVPoolService"].full_name
_STREAMS_END_SECONDS = 1.0
"""How long streams that were told to end may take."""
_SOCKET = "pool.sock"
_MAX_PATH_BYTES = 107
"""Of a socket's path, on Linux."""


@dataclass(frozen=True, slots=True)
class Running:
    """A pool that serves."""

    pool_id: str
    arena_id: str
    address: str
    """host:port, for the cluster."""
    socket: str
    """For this host: "unix:" and a path."""
    data_address: str
    """host:port, for other pools."""


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running]:
    """Serve until left; what programs hold goes to disk then, if there is one. Raises SettingsError where the settings
    ask for what is not there."""
    section, cluster, name = settings.kvpool, settings.cluster, pool_id(settings.kvpool)
    way = transfers.way(section)
    async with contextlib.AsyncExitStack() as stack:
        socket_path = stack.enter_context(_directory(section))
        members = await stack.enter_async_context(registry.connect(settings.registry, cluster.name))
        memory = await stack.enter_async_context(arena.create(section, cluster.name, name))
        pool = _pool(section, memory, name)
        stack.callback(metrics.tell_of(pool))
        moving = await stack.enter_async_context(transfers.transferring(section, memory, pool.speeds, pool.feed))
        stack.callback(pool.close)
        pool.begin(moving.begin, moving.entries)
        if section.ssd_directory:
            stack.push_async_callback(_save, pool, moving, cluster.drain_seconds)
        lending = await stack.enter_async_context(way.serve(Lender(pool), memory.data, cluster.host, section.data_port))
        description = _description(pool, section, lending.address)
        servicer = KVPoolServicer(pool, memory, description, section.retention)

        def add(server: grpc.aio.Server) -> tuple[str]:
            kvpool_pb2_grpc.add_KVPoolServiceServicer_to_server(servicer, server)
            return (_SERVICE,)

        where = grpc_server(
            add, host=cluster.host, port=section.port, drain_seconds=_STREAMS_END_SECONDS, unix_path=socket_path
        )
        server = await stack.enter_async_context(where)
        os.chmod(socket_path, 0o600)
        member = Member("kvpool", name, server.address, {"data_address": lending.address})
        await stack.enter_async_context(members.announce(member))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        forecasts = tasks.create_task(workflow_watcher.watch(pool, members), name="watch forecasts")
        stack.callback(forecasts.cancel)
        stack.callback(pool.end)
        yield Running(name, memory.arena_id, server.address, f"unix:{socket_path}", lending.address)


async def _save(pool: Pool, moving: Transfers, seconds: float) -> None:
    """Write to disk what programs hold in memory, as far as the time goes: the next life finds it there."""
    pool.demote_all()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await moving.idle()


def _pool(section: KVPoolSection, memory: SharedArena, name: str) -> Pool:
    costs = Costs()
    core = Core(
        memory.num_bytes,
        _ssd_bytes(section),
        retention.load(section.retention, **section.retention_params),
        costs,
        Returns(),
        limits(section),
        life=memory.arena_id,
    )
    return Pool(name, memory.arena_id, core, Speeds(costs))


def _ssd_bytes(section: KVPoolSection) -> int:
    """Whole pages: what lies behind them cannot be moved directly."""
    return section.ssd_bytes // 4096 * 4096 if section.ssd_directory else 0


def _description(pool: Pool, section: KVPoolSection, data_address: str) -> kvpool_pb2.PoolDescription:
    return kvpool_pb2.PoolDescription(
        pool_id=pool.pool_id,
        arena_id=pool.arena_id,
        data_address=data_address,
        dram_bytes=pool.core.places.slots[0].capacity_bytes,
        ssd_bytes=_ssd_bytes(section),
    )


@contextlib.contextmanager
def _directory(section: KVPoolSection) -> Generator[str]:
    """Have the directory to ourselves; yields where the socket goes. Raises SettingsError."""
    directory = Path(section.directory).absolute()
    socket_path = str(directory / _SOCKET)
    if len(os.fsencode(socket_path)) > _MAX_PATH_BYTES:
        raise SettingsError(
            f"kvpool.directory: the path of a socket has at most {_MAX_PATH_BYTES} bytes, and {socket_path} has more"
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"kvpool.directory: {error}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"kvpool.directory: another pool runs in {directory}") from None
        Path(socket_path).unlink(missing_ok=True)  # of a life that was killed
        try:
            yield socket_path
        finally:
            Path(socket_path).unlink(missing_ok=True)
    finally:
        os.close(lock)
