"""Clients and registries on a real etcd and on the embedded one."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from services.common.config import RegistrySection
from services.common.registry import Registry, connect
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.embedded import serve_embedded
from tests.servers.etcd import Etcd, etcd

LEASE_SECONDS = 2
_names = itertools.count(1)


class Connect(Protocol):
    """Opens another registry of the test's cluster."""

    def __call__(self) -> AbstractAsyncContextManager[Registry]: ...


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One etcd for all tests that do it no harm."""
    with etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=["etcd", "embedded"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """host:port of a server; the same tests run against each kind."""
    if request.param == "etcd":
        yield request.getfixturevalue("shared_etcd").address
    else:
        async with serve_embedded() as embedded:
            yield embedded


@pytest.fixture
def cluster() -> str:
    """A name that no other test uses."""
    return f"test{next(_names)}"


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    connection = Connection([address])
    yield Client(connection)
    await connection.close()


@pytest.fixture
def open_registry(address: str, cluster: str) -> Connect:
    section = RegistrySection(endpoints=(address,), lease_seconds=LEASE_SECONDS)
    return lambda: connect(section, cluster)
