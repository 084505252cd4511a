"""One node's share of a cluster: `python -m services node --services ... --directory ...`.

The nodes of a cluster meet in a directory that all of them see (shared_directory.py). The node that runs etcd and Redis
writes there where they are; every other one reaches them through relays of its own.

SIGUSR1: the end is near. Gateways admit no new programs; `notice_seconds` later this node stops as if by SIGTERM.
SIGUSR2: leave. Gateways admit no new programs; workers finish or hand over their calls and go at once, and a node that
had some stops `notice_seconds` later: until then other nodes' pools may copy the KV of the programs that went on there.
SIGTERM: stop, within `stop_seconds`; what then still runs is killed.
"""

import argparse
import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common import config, registry, server
from services.common.config import RegistrySection
from services.common.registry import Member
from services.local import ready, stores, stores_lock
from services.local.children import Children, children
from services.local.config import Settings
from services.local.processes import METRICS_OFFSETS, free_ports
from services.local.relay import relaying
from services.local.shared_directory import SharedDirectory
from services.local.stores import Certificate

log = logging.getLogger(__name__)

STORES = ("etcd", "redis")
STATEFUL = ("scheduler", "workflow", "gateway")
"""Those that use Redis."""
SERVICES = ("scheduler", "workflow", "kvpool", "worker", "gateway")
"""In the order of their start, after etcd and Redis; they stop in the reverse."""
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Node:
    """What runs here, and how it ends."""

    services: tuple[str, ...]
    directory: Path
    name: str
    """Of this node, for its logs."""
    notice_seconds: float
    """From a signal that foretells the stop to the stop."""
    stop_seconds: float


def names(text: str) -> tuple[str, ...]:
    """Services as an argument lists them. ValueError for an unknown one, and for one of etcd and Redis alone."""
    chosen = tuple(text.split(","))
    known = (*STORES, *SERVICES)
    if unknown := set(chosen) - set(known):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if len(set(STORES) & set(chosen)) == 1:
        raise ValueError("etcd and redis run on the same node")
    return tuple(name for name in known if name in chosen)


@asynccontextmanager
async def running(settings: Settings, node: Node) -> AsyncGenerator[Children]:
    """Run until left; yields the processes."""
    shared = SharedDirectory(node.directory.resolve())
    async with AsyncExitStack() as outer, AsyncExitStack() as stack:  # relays and the lock outlast the processes
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="legato-")))
        group = await stack.enter_async_context(children(node.stop_seconds, shared.logs(node.name), own_groups=True))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.enter_context(_signals(node, group, tasks))
        if "etcd" in node.services:
            owner = f"{node.name}, process {os.getpid()}"
            lock = await outer.enter_async_context(stores_lock.held(shared.stores_lock_file, owner))
            overrides = await _with_stores(settings, shared, private, group, lock)
        else:
            overrides = await _with_relays(settings, node, shared, outer)
        overrides |= _secrets(node, shared) | {"kvpool.directory": str(private / "kvpool")}
        for name in SERVICES:
            if name in node.services:
                _start(group, name, settings, overrides)
        if "etcd" in node.services:
            publishing = tasks.create_task(_publish(settings, shared, overrides), name="publish")
            stack.callback(publishing.cancel)
        yield group


async def _with_stores(
    settings: Settings, shared: SharedDirectory, private: Path, group: Children, lock: int
) -> dict[str, object]:
    """Start etcd and Redis here, with the lock on their data, and tell the other nodes."""
    for program in ("etcd", "etcdctl", "redis-server"):
        if shutil.which(program) is None:
            raise config.SettingsError(f"{program} is not on PATH (docs/slurm.md says how it gets there without root)")
    host = settings.cluster.host
    etcd, peer, redis = free_ports(host, 3)
    password, shown = shared.secret("redis_password"), _certificate(settings, "redis")
    group.start("etcd", stores.etcd(shared.etcd, host, etcd, peer, _certificate(settings, "etcd")), inherited=(lock,))
    group.start("redis", stores.redis(shared.redis, host, redis, private, password, shown), inherited=(lock,))
    await stores.protect_etcd(f"{host}:{etcd}", shared.secret("etcd_password"), _certificate(settings, "operator"))
    shared.write_control(etcd=f"{host}:{etcd}", redis=f"{host}:{redis}")
    return {"registry.endpoints": [f"{host}:{etcd}"], "state.url": _redis_url(settings, f"{host}:{redis}")}


async def _with_relays(
    settings: Settings, node: Node, shared: SharedDirectory, relays: AsyncExitStack
) -> dict[str, object]:
    etcd = await relays.enter_async_context(relaying(lambda: shared.control("etcd")))
    if not set(STATEFUL) & set(node.services):
        return {"registry.endpoints": [etcd]}
    redis = await relays.enter_async_context(relaying(lambda: shared.control("redis")))
    return {"registry.endpoints": [etcd], "state.url": _redis_url(settings, redis)}


def _redis_url(settings: Settings, address: str) -> str:
    return f"{'rediss' if settings.tls.ca_file else 'redis'}://{address}/0"


def _certificate(settings: Settings, service: str) -> Certificate | None:
    files = settings.tls
    if not files.ca_file:
        return None
    cert_file, key_file = (file.replace("{service}", service) for file in (files.cert_file, files.key_file))
    return Certificate(files.ca_file, cert_file, key_file)


def _secrets(node: Node, shared: SharedDirectory) -> dict[str, object]:
    found: dict[str, object] = {}
    if password := shared.secret("etcd_password"):
        found |= {"registry.user": stores.ETCD_USER, "registry.password": password}
    if password := shared.secret("redis_password"):
        found["state.password"] = password
    if "gateway" in node.services:
        if salt := shared.secret("salt"):
            found["gateway.salt_secret"] = salt
        if shared.api_keys_file.exists():
            found["gateway.api_keys_file"] = str(shared.api_keys_file)
    return found


def _start(group: Children, name: str, settings: Settings, overrides: Mapping[str, object]) -> None:
    port = settings.telemetry.metrics_port and settings.telemetry.metrics_port + METRICS_OFFSETS[name]
    environment = config.environment({**overrides, "telemetry.metrics_port": port})
    command = (sys.executable, "-m", f"services.{name}")
    shares = gpu_shares(environment.get(_GPUS, ""), settings.worker.num_gpus // settings.worker.num_nodes)
    if name != "worker" or settings.worker.engine == "simulated" or not shares:
        group.start(name, command, environment)
        return
    for i, gpus in enumerate(shares):
        own = {**overrides, "worker.count": 1, "telemetry.metrics_port": port and port + i}
        group.start(f"worker-{i}", command, {**config.environment(own), _GPUS: gpus})


def gpu_shares(visible: str, gpus_per_engine: int) -> list[str]:
    """What each engine of a node sees of the GPUs that this process sees (`CUDA_VISIBLE_DEVICES`)."""
    gpus = [gpu for gpu in visible.split(",") if gpu]
    ends = range(gpus_per_engine, len(gpus) + 1, gpus_per_engine)
    return [",".join(gpus[end - gpus_per_engine : end]) for end in ends]


async def _publish(settings: Settings, shared: SharedDirectory, overrides: Mapping[str, object]) -> None:
    """Keep the connection file as the gateways are, from the first call that can be served."""
    fields = {name.partition(".")[2]: value for name, value in overrides.items() if name.startswith("registry.")}
    section = RegistrySection.model_validate({**settings.registry.model_dump(), **fields})
    async with registry.connect(section, settings.cluster.name) as members:
        await ready.wait(members, 1, settings.gateway)
        async for gateways in members.watch("gateway"):
            if gateways:
                shared.write_connection(_connection(settings, shared, sorted(gateways.values(), key=lambda g: g.id)))
                log.info("ready for calls: %s", shared.connection_file)


def _connection(settings: Settings, shared: SharedDirectory, gateways: Sequence[Member]) -> dict[str, object]:
    keys = shared.secret("api_keys").splitlines()
    return {
        "addresses": [gateway.address for gateway in gateways],
        "base_url": ready.base_url(gateways[0].metadata["http"], settings.gateway),
        "api_key": keys[0] if keys else "",
        "ca_file": settings.tls.ca_file if settings.gateway.cert_file else "",
        "cluster": settings.cluster.name,
        "written": time.time(),
    }


@contextmanager
def _signals(node: Node, group: Children, tasks: asyncio.TaskGroup) -> Generator[None]:
    """SIGUSR1 and SIGUSR2 while inside. On the way out the stop is bounded, and a further SIGTERM does not cut it
    short: a batch system sends more than one."""
    loop = asyncio.get_running_loop()

    def end_is_near() -> None:
        log.info("no new programs; stop in %g s", node.notice_seconds)
        group.signal("gateway", signal.SIGUSR1)
        loop.call_later(node.notice_seconds, os.kill, os.getpid(), signal.SIGTERM)

    def leave() -> None:
        workers = [name for name in group.pids if name.startswith("worker")]
        log.info("no new programs and no more calls; %d workers go", len(workers))
        group.signal("gateway", signal.SIGUSR1)
        for name in workers:
            tasks.create_task(group.retire(name, node.notice_seconds), name=f"retire {name}")
        if workers:
            loop.call_later(node.notice_seconds, os.kill, os.getpid(), signal.SIGTERM)

    loop.add_signal_handler(signal.SIGUSR1, end_is_near)
    loop.add_signal_handler(signal.SIGUSR2, leave)
    try:
        yield
    finally:
        loop.add_signal_handler(signal.SIGTERM, log.info, "is stopping already")
        loop.call_later(node.stop_seconds, group.kill)


def main(argv: Sequence[str]) -> None:
    """Be a node until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m services node", description="One node's share of a cluster.")
    every = ",".join((*STORES, *SERVICES))
    parser.add_argument("--services", required=True, type=_names, metavar="NAMES", help=f"of {every}")
    parser.add_argument("--directory", required=True, type=Path, metavar="DIR", help="that all nodes see")
    parser.add_argument("--name", default=socket.gethostname(), help="of this node, for its logs (%(default)s)")
    parser.add_argument("--notice-seconds", type=float, default=0.0, metavar="S", help="from SIGUSR1 or 2 to the stop")
    parser.add_argument(
        "--stop-seconds", type=float, default=60.0, metavar="S", help="the stop takes at most this long"
    )
    given = parser.parse_args(argv)
    node = Node(given.services, given.directory, given.name, given.notice_seconds, given.stop_seconds)
    try:
        settings = config.load(Settings)
    except config.SettingsError as error:
        sys.exit(f"legato: {error}")
    server.run("node", settings, lambda: running(settings, node), identity="operator")


def _names(text: str) -> tuple[str, ...]:
    try:
        return names(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
