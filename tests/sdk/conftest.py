"""A fake gateway and a client of it for each test."""

from collections.abc import AsyncIterator

import pytest

import legato
from tests.sdk.fake_gateway import FakeGateway, serving


@pytest.fixture
async def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
async def address(gateway: FakeGateway) -> AsyncIterator[str]:
    async with serving(gateway) as served:
        yield served


@pytest.fixture
async def client(address: str) -> AsyncIterator[legato.Client]:
    async with legato.Client(address, tenant="acme", deadline_seconds=10) as opened:
        yield opened
