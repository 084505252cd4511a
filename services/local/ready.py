"""When is a stack ready: its workers have joined, and a gateway says that a real completion works."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from services.common import registry
from services.common.registry import Registry
from services.local.config import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients reach the stack, as host:port."""

    http: str
    grpc: str


async def wait(registry: Registry, num_workers: int) -> Addresses:
    """Wait for `num_workers` workers and a gateway that is ready for calls."""
    async for workers in registry.watch("worker"):
        if len(workers) >= num_workers:
            break
    async for gateways in registry.watch("gateway"):
        for gateway in gateways.values():
            addresses = Addresses(gateway.metadata["http"], gateway.address)
            await _completes(addresses.http)
            return addresses
    raise AssertionError("watch never ends")


async def _completes(http: str) -> None:
    async with aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://{http}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(POLL_SECONDS)


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
        addresses = await wait(members, settings.worker.count)
    if descriptor is None:
        log.info("ready for calls: HTTP on %s, gRPC on %s", addresses.http, addresses.grpc)
        return
    os.write(descriptor, f"OPENAI_BASE_URL=http://{addresses.http}/v1\nLEGATO_ADDRESS={addresses.grpc}\n".encode())
    os.close(descriptor)
