"""Who may call what inside: over real connections, with real certificates."""

import ast
import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509

from legato.certs import SERVICES, issue
from legato.v1 import kvpool_pb2, scheduler_pb2, worker_pb2, workflow_pb2
from services.common import rpc, server, telemetry, tls
from services.common.access import CALLERS
from services.common.errors import Reason
from services.common.tls import Identity
from tests.servers import free_port
from tests.trust.conftest import CLUSTER, Who, identity, issued

ANSWERED = "answered"


class Everything:
    """Answers any method with who called."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        untyped: Any = grpc  # its handlers are of unknown types
        return untyped.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, _: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return next(iter(context.auth_context().get("x509_pem_cert", ())), b"")

    def add_to(self, to: grpc.aio.Server) -> list[str]:
        to.add_generic_rpc_handlers((self,))  # pyright: ignore[reportArgumentType] (it is one by its method)
        return []


@asynccontextmanager
async def serving(own: Identity, unix_path: str = "") -> AsyncGenerator[str]:
    """Every method of a service; yields its address."""
    door = server.inside(own)
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "drain_seconds": 0}
    async with server.grpc_server(Everything().add_to, **options, unix_path=unix_path, door=door) as served:
        yield served.address


@pytest.fixture
async def scheduler(who: Who) -> AsyncIterator[str]:
    async with serving(who("scheduler")) as address:
        yield address


async def outcome(channel: grpc.aio.Channel, method: str) -> str:
    """`ANSWERED`, or the reason of the failure."""
    try:
        await channel.unary_unary(method)(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return rpc.failure_from(error).reason.name
    return ANSWERED


def server_of(method: str) -> str:
    services = ("Scheduler", "Worker", "KVPool", "Workflow")
    return next(name.lower() for name in services if f".{name}Service/" in method)


def test_the_table_has_a_row_for_each_method_inside() -> None:
    modules = (kvpool_pb2, scheduler_pb2, worker_pb2, workflow_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == CALLERS.keys()
    assert all(callers and callers <= set(SERVICES) for callers in CALLERS.values())


async def test_each_row_lets_in_whom_it_names_and_nobody_else(who: Who) -> None:
    for service in ("scheduler", "worker", "kvpool", "workflow"):
        methods = [method for method in CALLERS if server_of(method) == service]
        async with serving(who(service)) as address:
            for caller in SERVICES:
                async with rpc.channel(address, service, who(caller)) as channel:
                    found = {method: await outcome(channel, method) for method in methods}
                expected = {
                    method: ANSWERED if caller in CALLERS[method] else Reason.PERMISSION_DENIED.name
                    for method in methods
                }
                assert found == expected, caller


@pytest.mark.parametrize(
    ("method", "callers"),
    [
        ("SchedulerService/Schedule", {"gateway"}),
        ("WorkerService/Watch", {"scheduler"}),
        ("WorkerService/SetRole", {"scheduler"}),
        ("KVPoolService/BeginStore", {"worker"}),
        ("KVPoolService/Commit", {"worker"}),
        ("KVPoolService/ReleaseProgram", {"scheduler"}),
        ("WorkflowService/ReadLog", {"gateway", "operator"}),
    ],
)
def test_who_may_do_what_matters_most(method: str, callers: set[str]) -> None:
    assert CALLERS[f"/legato.v1.{method}"] == callers


async def test_a_refusal_says_who_may_not_do_what(scheduler: str, who: Who, caplog: pytest.LogCaptureFixture) -> None:
    async with rpc.channel(scheduler, "scheduler", who("worker")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/legato.v1.SchedulerService/Schedule")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert rpc.failure_from(refused.value).message == "the worker may not call /legato.v1.SchedulerService/Schedule"
    assert "refused /legato.v1.SchedulerService/Schedule to worker at ipv4:127.0.0.1" in caplog.text


async def test_who_may_not_call_is_told_before_it_sends_anything(scheduler: str, who: Who) -> None:
    async def unsent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with rpc.channel(scheduler, "scheduler", who("worker")) as channel, asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.stream_unary("/legato.v1.SchedulerService/Schedule")(unsent())
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_method_that_no_row_names_is_nobodys(scheduler: str, who: Who) -> None:
    async with rpc.channel(scheduler, "scheduler", who("gateway")) as channel:
        assert await outcome(channel, "/legato.v1.SchedulerService/New") == Reason.PERMISSION_DENIED.name


async def test_a_cluster_of_the_same_authority_is_another_cluster(tmp_path: Path) -> None:
    issued(tmp_path)
    here = identity(tmp_path, "scheduler")
    here.pem()  # read before the next cluster's take the files' place
    async with serving(here) as address:
        issue(tmp_path, "next", (), 1, renew=True)
        stranger = identity(tmp_path, "gateway", "next")
        credentials, options = tls.channel_credentials(stranger), tls.channel_options(here, "scheduler")
        (tmp_path / "scheduler.pem").unlink()  # a server whose files are gone goes on with what it read
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            assert await outcome(channel, "/legato.v1.SchedulerService/Schedule") == Reason.PERMISSION_DENIED.name


async def test_a_server_that_is_another_service_is_not_talked_to(scheduler: str, who: Who) -> None:
    async with rpc.channel(scheduler, "worker", who("scheduler")) as channel:
        assert await outcome(channel, "/legato.v1.WorkerService/Watch") == Reason.UNAVAILABLE.name
    async with rpc.channel(scheduler, "", who("gateway")) as channel:
        assert await outcome(channel, "/legato.v1.SchedulerService/Schedule") == Reason.UNAVAILABLE.name


async def test_who_has_no_certificate_of_the_cluster_gets_no_connection(
    scheduler: str, who: Who, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = who("gateway")
    pem, options = own.pem(), tls.channel_options(own, "scheduler")
    stranger = identity(issued(tmp_path / "stranger"), "gateway").pem()
    expired = _expired(own, tmp_path)

    async def connecting(authority: bytes, key: bytes | None, certificate: bytes | None) -> str:
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        async with grpc.aio.secure_channel(scheduler, credentials, options=options) as channel:
            return await outcome(channel, "/legato.v1.SchedulerService/Schedule")

    assert await connecting(pem.authorities, pem.key, pem.certificate) == ANSWERED
    assert await connecting(pem.authorities, None, None) == Reason.UNAVAILABLE.name
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in capfd.readouterr().err
    assert await connecting(pem.authorities, stranger.key, stranger.certificate) == Reason.UNAVAILABLE.name
    assert "CERTIFICATE_VERIFY_FAILED: unable to get local issuer" in capfd.readouterr().err
    assert await connecting(pem.authorities, *expired) == Reason.UNAVAILABLE.name
    assert "CERTIFICATE_VERIFY_FAILED: certificate has expired" in capfd.readouterr().err
    assert await connecting(stranger.authorities, pem.key, pem.certificate) == Reason.UNAVAILABLE.name
    async with grpc.aio.insecure_channel(scheduler) as channel:
        assert await outcome(channel, "/legato.v1.SchedulerService/Schedule") == Reason.UNAVAILABLE.name


def _expired(own: Identity, folder: Path) -> tuple[bytes, bytes]:
    """Key and certificate of the same authority, of which the time is over."""
    directory = folder / "expired"
    directory.mkdir()
    for name in ("ca.pem", "ca.key"):
        (directory / name).write_bytes((Path(own.ca_file).parent / name).read_bytes())
    issue(directory, CLUSTER, (), days=0)
    return (directory / "gateway.key").read_bytes(), (directory / "gateway.pem").read_bytes()


async def test_renewed_files_are_taken_up_by_the_next_connection(tmp_path: Path) -> None:
    issued(tmp_path)
    server_side, client_side = identity(tmp_path, "scheduler"), identity(tmp_path, "gateway")

    async def shown() -> bytes:
        async with rpc.channel(address, "scheduler", client_side) as channel:
            untyped: Any = channel
            return await untyped.unary_unary("/legato.v1.SchedulerService/Schedule")(b"", timeout=10)

    async with serving(server_side) as address:
        old, old_server = await shown(), server_side.pem().certificate
        assert await shown() == old
        issue(tmp_path, CLUSTER, (), 1, renew=True)
        assert await shown() != old
        assert server_side.pem().certificate != old_server


async def test_the_socket_of_a_host_needs_no_certificate(who: Who, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(who("kvpool"), str(path)), rpc.channel(f"unix:{path}", "kvpool", who("worker")) as channel:
        assert await outcome(channel, "/legato.v1.KVPoolService/BeginStore") == ANSWERED


async def test_without_identities_nothing_is_checked() -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "drain_seconds": 0}
    async with server.grpc_server(Everything().add_to, **options) as served, rpc.channel(served.address) as channel:
        assert await outcome(channel, "/legato.v1.SchedulerService/Schedule") == ANSWERED


async def test_a_process_is_who_it_was_told_to_be(scheduler: str, who: Who, assume: Callable[[Identity], None]) -> None:
    for service, expected in (("gateway", ANSWERED), ("kvpool", Reason.PERMISSION_DENIED.name)):
        assume(who(service))
        async with rpc.channel(scheduler, "scheduler") as channel:
            assert await outcome(channel, "/legato.v1.SchedulerService/Schedule") == expected


async def test_who_is_refused_is_told_where_to_look(
    scheduler: str, tmp_path: Path, who: Who, assume: Callable[[Identity], None]
) -> None:
    stranger = identity(issued(tmp_path), "gateway")
    assume(stranger)
    pem, options = stranger.pem(), tls.channel_options(who("gateway"), "scheduler")
    credentials = grpc.ssl_channel_credentials(who("gateway").pem().authorities, pem.key, pem.certificate)
    async with grpc.aio.secure_channel(scheduler, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/legato.v1.SchedulerService/Schedule")(b"", timeout=10)
    assert "a peer that refuses our certificate; its log says why" in rpc.failure_from(refused.value).message


async def test_metrics_are_for_operators_and_probes_for_all(who: Who, assume: Callable[[Identity], None]) -> None:
    assume(who("scheduler"))

    text = ""

    async def status(service: str, path: str) -> int:
        nonlocal text
        if service:
            trusting = tls.contexts(who(service), server=False).now()
        else:
            trusting = ssl.create_default_context(cafile=who("operator").ca_file)
            trusting.check_hostname = False
        async with session.get(f"https://127.0.0.1:{port}{path}", ssl=trusting) as response:
            text = await response.text()
            return response.status

    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        telemetry.serve_metrics("127.0.0.1", free_port()) as port,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        assert await status("operator", "/metrics") == 200
        expires = x509.load_pem_x509_certificate(who("operator").pem().certificate).not_valid_after_utc.timestamp()
        assert abs(_gauge(text, "legato_certificate_expires_seconds") - expires) < 3600
        assert await status("worker", "/metrics") == 403
        assert await status("", "/metrics") == 403
        assert await status("", "/readyz") == 200


def _gauge(text: str, name: str) -> float:
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_every_channel_says_whom_it_means_to_reach() -> None:
    """A channel without a service's name reaches nobody once there are certificates."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in Path(server.__file__).parents[1].rglob("*.py")}
    calls = [
        (name, node)
        for name, text in texts.items()
        if "rpc.channel(" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "rpc.channel"
    ]
    assert calls
    assert [name for name, call in calls if len(call.args) < 2] == []
