"""What a name tells that stands for several addresses, of which some answer, some refuse, and some are out of reach."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from services.scheduler import hosts
from tests.servers import free_port

HERE, ALSO_HERE = "127.0.0.1", "127.0.0.2"
NO_WAY = "224.0.0.1"
"""A group of hosts, to which no connection can be made: the kernel says that the network is not to be reached, as it
does where a route was lost."""
UNSPOKEN = socket.AF_ASH
"""A kind of network that Linux has a number for and no more, as IPv6 is where it is turned off."""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def listening(port: int) -> Iterator[socket.socket]:
    """At the second address alone."""
    with socket.create_server((ALSO_HERE, port)) as server:
        yield server


def stands_for(monkeypatch: pytest.MonkeyPatch, *addresses: str, unspoken: str = "") -> None:
    """Let the resolver answer so."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        found = [(socket.AF_INET, address) for address in addresses] + [(UNSPOKEN, unspoken)] * bool(unspoken)
        return [(family, socket.SOCK_STREAM, 0, "", (address, port)) for family, address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_where_each_address_refuses_nobody_listens(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    stands_for(monkeypatch, HERE, ALSO_HERE)
    assert await hosts.refused(f"both.example:{port}")
    assert await hosts.refused(f"127.0.0.1:{port}")


@pytest.mark.parametrize("addresses", [(HERE, ALSO_HERE), (ALSO_HERE, HERE)])
@pytest.mark.usefixtures("listening")
async def test_where_one_of_two_addresses_refuses_somebody_may_listen(
    monkeypatch: pytest.MonkeyPatch, port: int, addresses: tuple[str, str]
) -> None:
    stands_for(monkeypatch, *addresses)
    assert not await hosts.refused(f"both.example:{port}")


async def test_where_an_address_is_out_of_reach_somebody_may_listen(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for addresses in ((NO_WAY, HERE), (NO_WAY,)):
        stands_for(monkeypatch, *addresses)
        assert not await hosts.refused(f"far.example:{port}")


async def test_addresses_of_a_network_that_we_are_not_in_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    stands_for(monkeypatch, HERE, unspoken="::1")
    assert await hosts.refused(f"both.example:{port}")
    stands_for(monkeypatch, unspoken="::1")
    assert not await hosts.refused(f"foreign.example:{port}")


async def test_a_name_with_an_address_of_this_host_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for(monkeypatch, NO_WAY, HERE)
    assert await hosts.ours("both.example:1")
    stands_for(monkeypatch, "192.0.2.77")
    assert not await hosts.ours("far.example:1")


@pytest.mark.parametrize("address", ["", "no port", "nobody.invalid:1", "127.0.0.1:x"])
async def test_what_is_no_address_tells_nothing(address: str) -> None:
    assert not await hosts.refused(address)
    assert not await hosts.ours(address)
