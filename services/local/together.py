"""Every service in this process over real gRPC, workers as children, registry and state embedded.

Nothing outlives the process: the embedded registry and state are in memory.
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.common import config
from services.common.registry.embedded import serve_embedded
from services.gateway import service as gateway
from services.local.children import STOP_MARGIN_SECONDS, children
from services.local.config import Settings
from services.local.ready import announcing
from services.scheduler import service as scheduler


@asynccontextmanager
async def running(settings: Settings, ready_fd: int | None) -> AsyncGenerator[None]:
    """Run until left. Tells where it listens when the first call can be served."""
    async with serve_embedded(settings.cluster.host) as endpoint:
        section = settings.registry.model_copy(update={"endpoints": (endpoint,)})
        local = settings.model_copy(update={"registry": section})
        port = settings.telemetry.metrics_port
        overrides = {"registry.endpoints": [endpoint], "telemetry.metrics_port": port and port + 1}
        # Left from the last to the first: the gateway finishes its calls while there are workers for them.
        async with (
            scheduler.running(local),
            children(settings.cluster.drain_seconds + STOP_MARGIN_SECONDS) as group,
            gateway.running(local),
            announcing(local, ready_fd),
        ):
            group.start("worker", (sys.executable, "-m", "services.worker"), config.environment(overrides))
            yield
