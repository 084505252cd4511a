"""The frame of a service: its gRPC server, and the process around it.

`grpc_server` serves with health, reflection, failures as rich statuses and a graceful drain. `run` is a service's
main: event loop, signals, logs, exit code. One event loop per process (grpc.aio wakes its loop from one poller).

For those who start processes: uvloop's `create_subprocess_exec` lets children inherit every inheritable descriptor,
so a child that outlives its parent keeps the parent's pipes open. Use `subprocess.Popen`, which closes them.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from services.common import access, health, rpc, telemetry, tls
from services.common.access import Guard
from services.common.config import ClusterSection, TelemetrySection, TlsSection
from services.common.interceptor import Boundary

_log = logging.getLogger(__name__)

_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.so_reuseport", 0),  # two services that share a port by mistake must fail, not share its calls
    ("grpc.max_send_message_length", rpc.MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", rpc.MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # channels ping each 10 s; more often is cut off
    # RPCs that Python has not taken up yet. Beyond 1,000 gRPC drops some at random by default; callers see a bare
    # CANCELLED; a burst is the service's to refuse, with a reason.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
)
_FLUSH_SECONDS: Final = 1.0  # handlers have returned, but gRPC may still be sending what they returned


class GrpcServer:
    """A server that accepts RPCs."""

    def __init__(self, host: str, port: int, status: health.Health) -> None:
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.draining = asyncio.Event()
        """Set when the server is asked to stop. Streams without an end of their own should end then."""
        self._status = status

    def set_serving(self, serving: bool) -> None:
        """What health checks answer; they begin with serving."""
        self._status.set_serving(serving)


@dataclass(frozen=True, slots=True)
class Door:
    """Who comes in by a server's port. `credentials`: None: plain text. `guard`: None: all may call everything."""

    credentials: grpc.ServerCredentials | None = None
    guard: Guard | None = None


def inside(own: tls.Identity | None) -> Door:
    """The door of a service that other services call: they prove who they are, if we can."""
    return Door() if own is None else Door(tls.server_credentials(own.pem), access.guard_of(own))


@contextlib.asynccontextmanager
async def grpc_server(
    add: Callable[[grpc.aio.Server], Sequence[str]],
    *,
    host: str,
    port: int,
    drain_seconds: float,
    unix_path: str = "",
    door: Door | None = None,
) -> AsyncGenerator[GrpcServer]:
    """Serve until the context is left.

    `add` adds servicers and returns their full names. `unix_path`: of a socket that serves this host too. `door`: None:
    for other services, as this process is set up. On the way out: not healthy, `draining` set, new RPCs fail with
    DRAINING; live ones have `drain_seconds` to end and are then cancelled. Raises OSError when the port or the path is
    taken.
    """
    door = door or inside(tls.own())
    boundary = Boundary(door.guard)
    server = grpc.aio.server(interceptors=(boundary,), options=_OPTIONS)
    names = add(server)
    status = health.Health(names)
    status.add_to(server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", door.credentials)
    if unix_path:
        _bind(server, f"unix:{unix_path}")
    await server.start()
    serving = GrpcServer(host, bound, status)
    try:
        yield serving
    finally:
        status.close()
        serving.draining.set()
        await _stop(server, boundary, serving.address, drain_seconds)


async def _stop(server: grpc.aio.Server, boundary: Boundary, address: str, drain_seconds: float) -> None:
    """When live RPCs have ended or the drain is over."""
    grace_seconds: float | None = None
    try:
        async with asyncio.timeout(drain_seconds):
            await boundary.drain()
        grace_seconds = _FLUSH_SECONDS
    except TimeoutError:
        _log.warning("%s: RPCs outlasted the drain of %g s", address, drain_seconds)
    finally:
        await server.stop(grace_seconds)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """The port."""
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None


class ProcessSettings(Protocol):
    """What `run` reads of a service's settings."""

    @property
    def cluster(self) -> ClusterSection: ...
    @property
    def tls(self) -> TlsSection: ...
    @property
    def telemetry(self) -> TelemetrySection: ...


def run(
    name: str,
    settings: ProcessSettings,
    service: Callable[[], AbstractAsyncContextManager[object]],
    *,
    identity: str = "",
) -> None:
    """Be the service `name` until SIGTERM or SIGINT, then leave its context; a second signal cancels at once.

    `identity`: what it is in its certificate; empty: its name.
    Returns when the service ended as asked. Exits 1 when it failed or was cancelled.
    """
    telemetry.configure(settings.telemetry, name)
    try:
        tls.assume(tls.identity(settings.tls, settings.cluster.name, identity or name))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(name, settings, service))
    except asyncio.CancelledError:
        _log.warning("%s: stopped at once", name)
        sys.exit(1)
    except Exception as error:
        _log.critical("%s: %s", name, error, exc_info=error)
        sys.exit(1)
    finally:
        telemetry.shutdown()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    name: str, settings: ProcessSettings, service: Callable[[], AbstractAsyncContextManager[object]]
) -> None:
    stop = _Stop()
    async with contextlib.AsyncExitStack() as stack:
        if settings.telemetry.metrics_port:
            host, port = settings.cluster.host, settings.telemetry.metrics_port
            await stack.enter_async_context(telemetry.serve_metrics(host, port, lambda: stop.serving))
        try:
            await stack.enter_async_context(service())
        except asyncio.CancelledError:
            _log.info("%s: stopped before it ran", name)
            return
        stop.running = True
        _log.info("%s: running", name)
        await stop.asked.wait()
        _log.info("%s: stopping", name)
    _log.info("%s: stopped", name)


class _Stop:
    """Turns signals into a graceful stop; into a cancellation before the service runs and once it was asked to stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.running = False
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    @property
    def serving(self) -> bool:
        """It runs, and is not about to stop."""
        return self.running and not self.asked.is_set()

    def _receive(self) -> None:
        if self._task is not None and (self.asked.is_set() or not self.running):
            self._task.cancel()
        self.asked.set()
