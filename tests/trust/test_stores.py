"""etcd as we run it: what listens on a host hears nobody but whom it should."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.common import tls
from services.local import stores
from services.local.stores import Certificate
from tests.servers import binary, free_port
from tests.trust.conftest import Who

SECONDS = 20.0


@pytest.fixture
async def peer_port(certificates: Path, tmp_path: Path) -> AsyncIterator[int]:
    """Of an etcd that is up."""
    client_port, port = free_port(), free_port()
    shown, asking = (
        Certificate(f"{certificates}/ca.pem", f"{certificates}/{name}.pem", f"{certificates}/{name}.key")
        for name in ("etcd", "operator")
    )
    _, *arguments = stores.etcd(tmp_path / "etcd", "127.0.0.1", client_port, port, shown)
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(binary("etcd"), *arguments, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(SECONDS):
            await stores.protect_etcd(f"127.0.0.1:{client_port}", "", asking)
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_the_port_for_peers_is_for_etcds_own_certificate(peer_port: int, certificates: Path, who: Who) -> None:
    async def ask(scheme: str, trusting: ssl.SSLContext | bool) -> int:
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"{scheme}://127.0.0.1:{peer_port}/members", ssl=trusting) as response,
        ):
            return response.status

    unproved = ssl.create_default_context(cafile=f"{certificates}/ca.pem")
    assert await ask("https", tls.contexts(who("etcd"), server=False).now()) == 200
    worker = tls.contexts(who("worker"), server=False).now()
    for scheme, shown in (("http", True), ("https", unproved), ("https", worker)):
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(scheme, shown)
