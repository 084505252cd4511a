"""Renewed files are taken up by what listens already, without a restart."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from legato.certs import issue
from services.common import server, tls
from services.common.config import SettingsError
from services.gateway import certificate
from tests.trust.conftest import CLUSTER, identity, issued


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncGenerator[Callable[..., Any]]:
    """A TLS server; yields what tells the serial number of the certificate that it shows to a client."""
    served = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = served.sockets[0].getsockname()[1]
    looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    looking.check_hostname, looking.verify_mode = False, ssl.CERT_NONE

    async def shown(name: str, mine: ssl.SSLContext = looking) -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=mine, server_hostname=name)
        found = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return x509.load_der_x509_certificate(found).serial_number

    async with served:
        yield shown


def serial(directory: Path, service: str) -> int:
    return x509.load_pem_x509_certificate((directory / f"{service}.pem").read_bytes()).serial_number


async def test_the_gateways_doors_show_what_the_files_hold(tmp_path: Path) -> None:
    issued(tmp_path)
    shown = certificate.read(f"{tmp_path}/gateway.pem", f"{tmp_path}/gateway.key")
    assert shown is not None
    async with listening(shown.context) as ask:
        assert await ask("localhost") == await ask("") == serial(tmp_path, "gateway")
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        await ask("")  # the connection that finds the new files is the last to be shown the old one
        assert await ask("localhost") == await ask("") == serial(tmp_path, "gateway")


async def test_the_gateways_doors_stay_open_while_their_files_are_replaced(tmp_path: Path) -> None:
    issued(tmp_path)
    shown = certificate.read(f"{tmp_path}/gateway.pem", f"{tmp_path}/gateway.key")
    assert shown is not None
    before = serial(tmp_path, "gateway")
    async with listening(shown.context) as ask:
        key = (tmp_path / "gateway.key").read_bytes()
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        new_key = (tmp_path / "gateway.key").read_bytes()
        (tmp_path / "gateway.key").unlink()
        assert await ask("") == await ask("") == before
        (tmp_path / "gateway.key").write_bytes(key)  # which is not the new certificate's
        assert await ask("") == await ask("") == before
        (tmp_path / "gateway.key").write_bytes(new_key)
        await ask("")
        assert await ask("") == serial(tmp_path, "gateway")


async def test_the_grpc_door_needs_no_certificate_of_its_clients(tmp_path: Path) -> None:
    issued(tmp_path)
    shown = certificate.read(f"{tmp_path}/gateway.pem", f"{tmp_path}/gateway.key")
    assert shown is not None
    door = server.Door(shown.credentials)
    async with server.grpc_server(lambda _: [], host="127.0.0.1", port=0, drain_seconds=0, door=door) as served:
        trusting = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(served.address, trusting) as channel, asyncio.timeout(10):
            await channel.channel_ready()


async def test_a_service_shows_what_its_files_hold(tmp_path: Path) -> None:
    own, client = identity(issued(tmp_path), "scheduler"), identity(tmp_path, "operator")
    async with listening(tls.context(own, server=True)) as ask:
        assert await ask("", tls.context(client, server=False)) == serial(tmp_path, "scheduler")
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        assert await ask("", tls.context(client, server=False)) == serial(tmp_path, "scheduler")


@pytest.mark.parametrize(
    ("cert_file", "key_file", "message"),
    [
        ("gateway.pem", "", "both or neither"),
        ("missing.pem", "gateway.key", "No such file"),
        ("gateway.pem", "worker.key", "KEY_VALUES_MISMATCH"),
    ],
)
def test_a_door_that_cannot_show_anything_says_why(
    certificates: Path, cert_file: str, key_file: str, message: str
) -> None:
    files = [name and f"{certificates}/{name}" for name in (cert_file, key_file)]
    with pytest.raises(SettingsError, match=message):
        certificate.read(*files)
