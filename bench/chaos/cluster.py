"""A cluster on nodes of its own: real etcd, real Redis, each service a process that is started again when it dies."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench.chaos import clock, layout
from bench.chaos.layout import SERVICES, Service
from bench.chaos.network import Network, network
from services.common import config
from services.local import stores
from services.local.children import STOP_MARGIN_SECONDS, Children, children

MODEL_PATH = Path(__file__).parents[2] / "models" / "tiny-llama"
MODEL = "tiny-llama"
WORKERS_PER_PROCESS = 2
NUM_WORKERS = WORKERS_PER_PROCESS * len(layout.names("worker"))
MAX_MODEL_LEN = 4096
READY_SECONDS = 180.0
_ETCD_PORT, _ETCD_PEER_PORT, _REDIS_PORT = 2379, 2380, 6379
_HTTP_PORT, _GRPC_PORT = 8000, 8001
_METRICS_PORT = 9100
"""Of the first service; the next ones follow."""
_SCRAPE_SECONDS = 5.0
_POLL_SECONDS = 0.1
_MIB = 1 << 20
_COMMON: dict[str, object] = {
    "telemetry.log_level": "info",
    "telemetry.log_format": "text",
    "cluster.drain_seconds": 5,
    "worker.engine": "simulated",
    "worker.model": MODEL,
    "worker.model_path": str(MODEL_PATH),
    "worker.count": WORKERS_PER_PROCESS,
    "worker.max_num_seqs": 32,
    "worker.report_interval_seconds": 0.1,
    "worker.max_model_len": MAX_MODEL_LEN,
    "simulated.profile": "llama3-70b@a100-tp4",
    # Small, so that caches are full before memory is compared.
    "gateway.segment_cache_bytes": 8 * _MIB,
    "gateway.hash_cache_bytes": 4 * _MIB,
    # The log is compared with what the clients saw, so all of a run has to fit.
    "gateway.call_log_bytes": 256 * _MIB,
    "gateway.keepalive_seconds": 3,
    "kvpool.dram_bytes": 32 * _MIB,
    "kvpool.ssd_bytes": 48 * _MIB,
}


@dataclass(slots=True)
class Cluster:
    """It runs."""

    network: Network
    data: Path
    group: Children
    library: Path | None
    """What gives services clocks of their own; None: they all have this machine's."""
    redis_password: str = field(default_factory=lambda: secrets.token_hex(16))
    """Without one Redis answers its own host alone."""

    @property
    def grpc_addresses(self) -> list[str]:
        """Of the gateways, for the SDK."""
        return [f"{self.host(name)}:{_GRPC_PORT}" for name in layout.names("gateway")]

    @property
    def http_addresses(self) -> list[str]:
        """Of the gateways, for everybody else."""
        return [f"{self.host(name)}:{_HTTP_PORT}" for name in layout.names("gateway")]

    def host(self, name: str) -> str:
        """Where a service runs."""
        return self.network.addresses[layout.service(name).node]

    def disk(self, name: str) -> Path:
        """The file system of its own that a service has."""
        return self.data / name

    def clock(self, name: str) -> Path:
        """What its clock reads its error from."""
        return self.data / f"{name}.clock"

    def signal(self, name: str, number: signal.Signals) -> bool:
        """False: it is not there just now."""
        pid = self.group.pids.get(name)
        if pid is None:
            return False
        os.kill(pid, number)
        return True

    @property
    def closed(self) -> Path:
        """Once this file is there, those who use KV pools use them no more."""
        return self.data / "closed"

    @property
    def pids(self) -> dict[str, int]:
        """Of the services that run just now."""
        return dict(self.group.pids)

    async def metrics(self, name: str) -> dict[str, float]:
        """What a service says of itself: the sum over the labels of each metric. Raises OSError, TimeoutError."""
        port = _METRICS_PORT + SERVICES.index(layout.service(name))
        timeout = aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.get(f"http://{self.host(name)}:{port}/metrics") as response,
        ):
            text = await response.text()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def ready(self) -> None:
        """Wait until every gateway would serve a call. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as client:
            for address in self.http_addresses:
                while not await _is_ready(client, address):  # noqa: ASYNC110 (there is nothing to be awaited)
                    await asyncio.sleep(_POLL_SECONDS)


async def _is_ready(client: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with client.get(f"http://{address}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


@asynccontextmanager
async def running(log_dir: Path) -> AsyncGenerator[Cluster]:
    """A cluster that is ready for calls, for the length of the context. Its services write into `log_dir`."""
    with ExitStack() as stack:
        net = stack.enter_context(network(layout.NODES))
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-")))
        for name, size_mib in layout.DISKS.items():
            stack.enter_context(_disk(data / name, size_mib))
        async with children(STOP_MARGIN_SECONDS, log_dir) as group:
            cluster = Cluster(net, data, group, clock.build(data))
            for service in SERVICES:
                _start(cluster, service)
            await cluster.ready()
            yield cluster


@contextmanager
def _disk(path: Path, size_mib: int) -> Generator[None]:
    path.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "legato-chaos", path), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", path), check=True)


def _start(cluster: Cluster, service: Service) -> None:
    environment = config.environment({**_COMMON, **_own(cluster, service)})
    if cluster.library is not None and service.name not in layout.NO_CLOCK:
        environment |= clock.environment(cluster.library, cluster.clock(service.name))
    command = (*cluster.network.enter(service.node), *_command(cluster, service))
    cluster.group.start(service.name, command, environment)


def _own(cluster: Cluster, service: Service) -> dict[str, object]:
    """The settings that are this service's alone."""
    suffix = service.name.rpartition("-")[2]
    settings: dict[str, object] = {
        "cluster.host": cluster.host(service.name),
        "registry.endpoints": [f"{cluster.host('etcd')}:{_ETCD_PORT}"],
        "state.url": f"redis://{cluster.host('redis')}:{_REDIS_PORT}/0",
        "state.password": cluster.redis_password,
        "telemetry.metrics_port": _METRICS_PORT + SERVICES.index(service),
        "gateway.http_port": _HTTP_PORT,
        "gateway.port": _GRPC_PORT,
    }
    if service.kind in ("kvpool", "kvuser"):
        settings |= {
            "kvpool.name": f"pool-{suffix}",
            "kvpool.directory": str(cluster.data / f"sock-{suffix}"),
            "kvpool.ssd_directory": str(cluster.disk(f"kvpool-{suffix}")),
        }
    return settings


def _command(cluster: Cluster, service: Service) -> tuple[str, ...]:
    host = cluster.host(service.name)
    match service.kind:
        case "etcd":
            return stores.etcd(cluster.disk("etcd") / "data", host, _ETCD_PORT, _ETCD_PEER_PORT)
        case "redis":
            return stores.redis(cluster.disk("redis"), host, _REDIS_PORT, cluster.data, cluster.redis_password)
        case "kvuser":
            return (sys.executable, "-m", "bench.chaos.kv_user", str(cluster.closed))
        case kind:
            return (sys.executable, "-m", f"services.{kind}")
