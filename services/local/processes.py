"""Every service a process of its own, with real etcd and Redis, found through etcd alone.

Needs `etcd` and `redis-server` on PATH. Each process writes run/<name>.log; one that dies is started again. etcd and
Redis keep their data in a directory that is removed at the end.
"""

import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from services.common import config
from services.local import stores
from services.local.background import RUN_DIR
from services.local.children import STOP_MARGIN_SECONDS, Children, children
from services.local.config import Settings, pool_directory
from services.local.ready import announcing

SERVICES = ("scheduler", "workflow", "kvpool", "worker", "gateway")
"""In the order of their start; they stop in the reverse, so that the gateway finishes its calls first."""
METRICS_OFFSETS = {"scheduler": 1, "gateway": 2, "kvpool": 3, "workflow": 4, "worker": 5}
"""From the metrics port of the settings, which is our own; each further worker process takes the next one."""


@asynccontextmanager
async def running(settings: Settings, ready_fd: int | None) -> AsyncGenerator[Children]:
    """Run until left; yields the processes. Tells where the gateway listens when the first call can be served."""
    for program in ("etcd", "redis-server"):
        if shutil.which(program) is None:
            raise config.SettingsError(f"{program} is not on PATH (Debian: apt-get install etcd-server redis-server)")
    host = settings.cluster.host
    etcd, peer, redis = free_ports(host, 3)
    endpoint = f"{host}:{etcd}"
    overrides: dict[str, object] = {"registry.endpoints": [endpoint], "state.url": f"redis://{host}:{redis}/0"}
    metrics_port = settings.telemetry.metrics_port
    section = settings.registry.model_copy(update={"endpoints": (endpoint,)})
    with tempfile.TemporaryDirectory(prefix="legato-") as data:
        async with children(settings.cluster.drain_seconds + STOP_MARGIN_SECONDS, RUN_DIR) as group:
            group.start("etcd", stores.etcd(Path(data) / "etcd", host, etcd, peer))
            group.start("redis", stores.redis(Path(data), host, redis, Path(data)))
            overrides["kvpool.directory"] = pool_directory(settings, str(Path(data) / "kvpool"))
            left_out = {"kvpool": not settings.kvpool.enabled, "workflow": not settings.workflow.enabled}
            for name in SERVICES:
                if left_out.get(name):
                    continue
                ports = {"telemetry.metrics_port": metrics_port and metrics_port + METRICS_OFFSETS[name]}
                environment = config.environment({**overrides, **ports})
                group.start(name, (sys.executable, "-m", f"services.{name}"), environment)
            async with announcing(settings.model_copy(update={"registry": section}), ready_fd):
                yield group


def free_ports(host: str, count: int) -> list[int]:
    """Ports that nothing listens on now. Another process may take one before we do; the start then fails loudly."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
