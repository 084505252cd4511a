"""Renewed files are taken up by what listens already, without a restart."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509

from legato.certs import issue
from services.common import server, telemetry, tls
from services.common.config import SettingsError
from services.common.tls import Identity
from services.gateway import certificate
from tests.servers import free_port
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
    async with listening(tls.listening(tls.contexts(own, server=True).now)) as ask:
        assert await ask("", tls.contexts(client, server=False).now()) == serial(tmp_path, "scheduler")
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        assert await ask("", tls.contexts(client, server=False).now()) == serial(tmp_path, "scheduler")


def test_who_runs_for_months_is_told_before_its_certificate_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = identity(issued(tmp_path, days=100), "scheduler")

    def pass_days(days: int) -> None:
        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + timedelta(days)

        monkeypatch.setattr(tls, "datetime", Later)

    for day, num_told in ((80, 0), (90, 1), (92, 2)):
        pass_days(day)
        assert own.pem() is own.pem()
        assert caplog.text.count("expires at") == num_told


async def test_probes_need_no_certificate_after_a_renewal_either(
    tmp_path: Path, assume: Callable[[Identity], None]
) -> None:
    assume(identity(issued(tmp_path), "scheduler"))
    trusting = ssl.create_default_context(cafile=f"{tmp_path}/ca.pem")
    trusting.check_hostname = False
    connector = aiohttp.TCPConnector(force_close=True, ssl=trusting)
    async with (
        telemetry.serve_metrics("127.0.0.1", free_port()) as port,
        aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session,
    ):
        for _ in range(2):
            async with session.get("/readyz") as ready, session.get("/metrics") as metrics:
                assert (ready.status, metrics.status) == (200, 403)
            issue(tmp_path, CLUSTER, (), 1, renew=True)


async def test_many_connections_after_a_renewal_share_what_was_read_once(tmp_path: Path) -> None:
    own, client = identity(issued(tmp_path), "scheduler"), identity(tmp_path, "operator")
    contexts = tls.contexts(own, server=True)
    used: list[ssl.SSLContext] = []

    def now() -> ssl.SSLContext:
        used.append(contexts.now())
        return used[-1]

    async with listening(tls.listening(now)) as ask:
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        mine = tls.contexts(client, server=False).now()
        assert {await ask("", mine) for _ in range(20)} == {serial(tmp_path, "scheduler")}
    assert len(used) == 21
    assert len(set(used)) == 2


async def test_what_is_no_renewal_of_the_service_is_not_shown(tmp_path: Path) -> None:
    """Nor does it end what was shown before."""
    own, client = identity(issued(tmp_path), "scheduler"), identity(tmp_path, "operator")
    before = serial(tmp_path, "scheduler")
    async with listening(tls.listening(tls.contexts(own, server=True).now)) as ask:
        for kind in ("pem", "key"):
            (tmp_path / f"scheduler.{kind}").write_bytes((tmp_path / f"worker.{kind}").read_bytes())
        assert await ask("", tls.contexts(client, server=False).now()) == before


@pytest.mark.parametrize(
    ("cert_file", "key_file", "message"),
    [
        ("gateway.pem", "", "both or neither"),
        ("missing.pem", "gateway.key", "No such file"),
        ("gateway.pem", "worker.key", "is not the key of"),
    ],
)
def test_a_door_that_cannot_show_anything_says_why(
    certificates: Path, cert_file: str, key_file: str, message: str
) -> None:
    files = [name and f"{certificates}/{name}" for name in (cert_file, key_file)]
    with pytest.raises(SettingsError, match=message):
        certificate.read(*files)
