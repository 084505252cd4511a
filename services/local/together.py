"""Every service in this process over real gRPC, workers as children, registry and state embedded.

Nothing outlives the process: the embedded registry and state are in memory.
"""

import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from services.common import config
from services.common.registry.embedded import serve_embedded
from services.gateway import service as gateway
from services.kvpool import service as kvpool
from services.local.children import STOP_MARGIN_SECONDS, children
from services.local.config import Settings, pool_directory
from services.local.ready import announcing
from services.scheduler import service as scheduler
from services.workflow import service as workflow

_LEASE_SECONDS = 60
"""The registry shares this event loop: a burst of calls is no death, and leading anew costs every waiting call a new
announcement just then. Dead workers break their streams."""


@asynccontextmanager
async def running(settings: Settings, ready_fd: int | None) -> AsyncGenerator[None]:
    """Run until left. Tells where it listens when the first call can be served. SettingsError for what one process
    cannot be."""
    if settings.tls.ca_file:
        raise config.SettingsError(
            "[tls] is for services that are processes of their own: python -m services run --processes"
        )
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(serve_embedded(settings.cluster.host))
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix="legato-"))
        directory = pool_directory(settings, private)
        lease_seconds = max(settings.registry.lease_seconds, _LEASE_SECONDS)
        sections = {
            "registry": settings.registry.model_copy(update={"endpoints": (endpoint,), "lease_seconds": lease_seconds}),
            "kvpool": settings.kvpool.model_copy(update={"directory": directory}),
        }
        local = settings.model_copy(update=sections)
        port = settings.telemetry.metrics_port
        overrides = {
            "registry.endpoints": [endpoint],
            "registry.lease_seconds": lease_seconds,
            "telemetry.metrics_port": port and port + 1,
            "kvpool.directory": directory,
        }
        # Left from the last to the first: the gateway finishes its calls while there are workers for them, and workers
        # save their KV while there is a pool.
        await stack.enter_async_context(scheduler.running(local))
        if settings.workflow.enabled:
            await stack.enter_async_context(workflow.running(local))
        if settings.kvpool.enabled:
            await stack.enter_async_context(kvpool.running(local))
        group = await stack.enter_async_context(children(settings.cluster.drain_seconds + STOP_MARGIN_SECONDS))
        await stack.enter_async_context(gateway.running(local))
        await stack.enter_async_context(announcing(local, ready_fd))
        group.start("worker", (sys.executable, "-m", "services.worker"), config.environment(overrides))
        yield
