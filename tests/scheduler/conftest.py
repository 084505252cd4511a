"""A scheduler of a cluster of its own, and the cluster's registry."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from services.common import registry
from services.common.config import ClusterSection, RegistrySection
from services.common.registry import Registry
from services.common.registry.embedded import serve_embedded
from services.scheduler.config import SchedulerSection, Settings
from services.scheduler.service import Running, running
from tests.scheduler.fake_worker import SECONDS

_names = itertools.count(1)


@pytest.fixture
async def settings() -> AsyncIterator[Settings]:
    """Of a cluster of its own."""
    async with serve_embedded() as endpoint:
        yield Settings(
            cluster=ClusterSection(name=f"scheduler-test-{next(_names)}"),
            registry=RegistrySection(endpoints=(endpoint,), lease_seconds=2),
            scheduler=SchedulerSection(lookahead_calls=0, save_seconds=0.01),
        )


@pytest.fixture
async def members(settings: Settings) -> AsyncIterator[Registry]:
    async with registry.connect(settings.registry, settings.cluster.name) as connected:
        yield connected


@pytest.fixture
async def scheduler(settings: Settings) -> AsyncIterator[Running]:
    async with running(settings) as started:
        async with asyncio.timeout(SECONDS):
            await started.leading.wait()
        yield started
