"""A gateway among fakes of its neighbours, with the tiny model's tokenizer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.common import registry
from services.common.config import ClusterSection, RegistrySection, StateSection
from services.common.registry import Registry
from services.common.registry.embedded import serve_embedded
from services.gateway.config import GatewaySection, Settings
from services.gateway.service import Running, running
from services.worker import tiny_model
from tests.gateway.fakes import FakeScheduler, FakeWorker, serving

EMBEDDED = StateSection()


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny_model.make(path)
    return path


@dataclass(frozen=True)
class World:
    """What a test sees."""

    gateway: Running
    scheduler: FakeScheduler
    workers: list[FakeWorker]
    registry: Registry
    http: aiohttp.ClientSession
    settings: Settings

    @property
    def worker(self) -> FakeWorker:
        return self.workers[0]

    @property
    def base_url(self) -> str:
        return f"http://{self.gateway.http_address}/v1"

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON and headers of the answer. `body`: bytes as they are, all else as JSON."""
        data: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(path, headers=names, **data) as response:
            return response.status, await response.json(), response.headers


Make = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def make_world(model_path: Path) -> Make:
    @asynccontextmanager
    async def make(num_workers: int = 1, state: StateSection = EMBEDDED, **section: Any) -> AsyncGenerator[World]:
        scheduler = FakeScheduler()
        workers = [FakeWorker(f"worker-{number}", str(model_path)) for number in range(num_workers)]
        scheduler.workers = workers
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(serve_embedded())
            settings = Settings(
                cluster=ClusterSection(drain_seconds=0.5),
                registry=RegistrySection(endpoints=(endpoint,)),
                state=state,
                gateway=GatewaySection(http_port=0, port=0, **section),
            )
            members = await stack.enter_async_context(registry.connect(settings.registry, settings.cluster.name))
            for worker in workers:
                await stack.enter_async_context(worker.serving(members))
            await stack.enter_async_context(serving(scheduler, members))
            gateway = await stack.enter_async_context(running(settings))
            http = await stack.enter_async_context(aiohttp.ClientSession(f"http://{gateway.http_address}"))
            if num_workers:
                await ready(http)
            yield World(gateway, scheduler, workers, members, http, settings)

    return make


@pytest.fixture
async def world(make_world: Make) -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


async def ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(20):
        while True:
            async with http.get("/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)  # readiness is only to be asked for
