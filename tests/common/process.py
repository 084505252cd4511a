"""A process around a service that behaves as its argument says: `python -m tests.common.process drains`."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import BaseModel

from services.common import server
from services.common.config import ClusterSection, TelemetrySection, TlsSection


class Settings(BaseModel):
    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    telemetry: TelemetrySection = TelemetrySection()


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _crash(after: asyncio.Event) -> None:
    await after.wait()
    raise ValueError("a task broke")


@asynccontextmanager
async def behaving(how: str) -> AsyncGenerator[None]:
    say("starting")
    if how == "cannot start":
        raise ValueError("no engine")
    if how == "starts for ever":
        await asyncio.Event().wait()
    broken = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        if how == "breaks":
            tasks.create_task(_crash(broken))
            broken.set()
        say("running")
        yield
        say("draining")
        if how == "drains for ever":
            await asyncio.Event().wait()
    say("drained")


if __name__ == "__main__":
    server.run("probe", Settings(), lambda: behaving(sys.argv[1]))
