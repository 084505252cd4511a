"""A cluster of processes on this host, for as long as a benchmark needs it: real etcd and Redis, simulated workers.

One process per service named, found through etcd alone; one that dies is started again after a second, as a
supervisor would. Each writes into a log of its own.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.common import config, registry
from services.common.config import RegistrySection
from services.common.registry import Member, Registry
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.local import stores
from services.local.children import RESTART_SECONDS, STOP_MARGIN_SECONDS, YOUNG_SECONDS, Children, children
from services.local.config import Settings
from services.local.processes import free_ports

_READY_SECONDS = 300.0
"""Forty processes that import Python take minutes on two cores."""
_ASK_AGAIN_SECONDS = 0.1


@dataclass(slots=True)
class Cluster:
    """It runs."""

    members: Registry
    name: str
    host: str
    metrics_ports: Mapping[str, int]
    """By process: gateway-1, scheduler-1."""
    gateways: Mapping[str, str]
    """Address of each gateway's gRPC door, by process."""
    _connection: Connection
    _group: Children
    _killed_at: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes that run just now, by name."""
        return dict(self._group.pids)

    async def announced(self, service: str, count: int, without: str = "") -> list[Member]:
        """Wait until so many are there, and the one with the id `without` is not."""
        async with asyncio.timeout(_READY_SECONDS), aclosing(self.members.watch(service)) as snapshots:
            async for members in snapshots:
                if len(members) >= count and without not in members:
                    return sorted(members.values(), key=lambda member: member.id)
        raise AssertionError("watch never ends")

    async def candidates(self, count: int, without: str = "") -> None:
        """Wait until so many schedulers lead or stand for it, and the one with the id `without` does not."""
        prefix = f"/legato/{self.name}/leaders/scheduler/"
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                values = [str(entry.value) for entry in (await Client(self._connection).list(prefix)).entries]
                if len(values) >= count and not (without and any(without in value for value in values)):
                    return
                await asyncio.sleep(_ASK_AGAIN_SECONDS)

    async def grown(self, names: Sequence[str]) -> None:
        """Wait until none of these died a short while ago: who kills them young too often ends the cluster."""
        old = RESTART_SECONDS + YOUNG_SECONDS
        due_at = max((self._killed_at[name] + old for name in names if name in self._killed_at), default=0.0)
        await asyncio.sleep(due_at - asyncio.get_running_loop().time())

    def process_of(self, member_id: str) -> str:
        """The worker or scheduler with this id."""
        return next(name for name, pid in self._group.pids.items() if f"-{pid}-" in member_id)

    def kill(self, process: str) -> float:
        """SIGKILL. When, in loop time."""
        now = self._killed_at[process] = asyncio.get_running_loop().time()
        self._group.signal(process, signal.SIGKILL)
        return now


@asynccontextmanager
async def running(counts: Mapping[str, int], settings: Mapping[str, object], log_dir: Path) -> AsyncGenerator[Cluster]:
    """`counts`: how many processes of each service (`{"gateway": 2}`), in the order of their start."""
    host = Settings().cluster.host
    names = [f"{service}-{number}" for service, count in counts.items() for number in range(1, count + 1)]
    etcd, peer, redis, *metrics = free_ports(host, 3 + len(names))
    endpoint = f"{host}:{etcd}"
    common = {**settings, "registry.endpoints": [endpoint], "state.url": f"redis://{host}:{redis}/0"}
    ports = dict(zip(names, metrics, strict=True))
    # The same after a restart.
    doors = {process: free_ports(host, 2) for process in names if process.startswith("gateway")}
    addresses = {process: f"{host}:{grpc}" for process, (grpc, _) in doors.items()}
    name = Settings().cluster.name
    with tempfile.TemporaryDirectory(prefix="legato-") as folder:
        data = Path(folder)
        async with children(STOP_MARGIN_SECONDS, log_dir) as group:
            group.start("etcd", stores.etcd(data / "etcd", host, etcd, peer))
            group.start("redis", stores.redis(data / "redis", host, redis, data))
            for process in names:
                own: dict[str, object] = {"telemetry.metrics_port": ports[process]}
                if process in doors:
                    own["gateway.port"], own["gateway.http_port"] = doors[process]
                command = (sys.executable, "-m", f"services.{process.rpartition('-')[0]}")
                group.start(process, command, config.environment({**common, **own}))
            async with registry.connect(RegistrySection(endpoints=(endpoint,)), name) as members:
                connection = Connection([endpoint])
                try:
                    yield Cluster(members, name, host, ports, addresses, connection, group)
                finally:
                    await connection.close()
