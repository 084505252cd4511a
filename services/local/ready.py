"""When is a stack ready: its workers have joined, and a gateway says that a real completion works."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from services.common import registry
from services.common.registry import Registry
from services.gateway.config import GatewaySection
from services.local.config import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients reach the stack, as host:port."""

    http: str
    grpc: str


def base_url(http: str, section: GatewaySection) -> str:
    """Of the OpenAI API of the gateway whose HTTP door is at `http`."""
    return f"{'https' if section.cert_file else 'http'}://{http}/v1"


async def wait(registry: Registry, num_workers: int, section: GatewaySection) -> Addresses:
    """Wait for `num_workers` workers and a gateway that is ready for calls."""
    async for workers in registry.watch("worker"):
        if len(workers) >= num_workers:
            break
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_SECONDS)) as client:
        while True:
            async for gateways in registry.watch("gateway"):  # those that died just now are listed for a while
                for gateway in gateways.values():
                    if await _completes(client, base_url(gateway.metadata["http"], section)):
                        return Addresses(gateway.metadata["http"], gateway.address)
                break
            await asyncio.sleep(POLL_SECONDS)


async def _completes(client: aiohttp.ClientSession, url: str) -> bool:
    """Whether a completion works there. Who answers is not in question: the registry names the address."""
    with contextlib.suppress(aiohttp.ClientConnectionError, TimeoutError):
        async with client.get(f"{url.removesuffix('/v1')}/readyz", ssl=False) as response:
            return response.status == 200
    return False


@asynccontextmanager
async def announcing(settings: Settings, descriptor: int | None) -> AsyncGenerator[None]:
    """While inside, wait for the stack, then tell whoever started it: through `descriptor`, else on the terminal."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_announce(settings, descriptor), name="announce")
        try:
            yield
        finally:
            task.cancel()


async def _announce(settings: Settings, descriptor: int | None) -> None:
    async with registry.connect(settings.registry, settings.cluster.name) as members:
        addresses = await wait(members, settings.worker.count, settings.gateway)
    if descriptor is None:
        log.info("ready for calls: HTTP on %s, gRPC on %s", addresses.http, addresses.grpc)
        return
    url = base_url(addresses.http, settings.gateway)
    os.write(descriptor, f"OPENAI_BASE_URL={url}\nLEGATO_ADDRESS={addresses.grpc}\n".encode())
    os.close(descriptor)
