"""Channels to a cluster's gateways, of which one is talked to at a time.

Who finds it gone leaves it; who asks next is given the next one, from the addresses as they are then. Calls that run
at another stay there.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import grpc

from legato.addresses import Addresses, Connection
from legato.attempts import Attempts, Policy
from legato.errors import InvalidRequest, LegatoError, Unavailable, error_from, gateway_gone
from legato.v1 import gateway_pb2_grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # what our own gateway sends is bounded by max_tokens
    ("grpc.keepalive_time_ms", 20_000),  # a host that vanishes without a word during a call is noticed within 30 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # despite its name: how long one attempt to connect may take
)
_INSIDE_OPTIONS = (*_OPTIONS, ("grpc.enable_http_proxy", 0))  # clusters set http_proxy for the way out alone

Q = TypeVar("Q", contravariant=True)
R = TypeVar("R", covariant=True)


class Method(Protocol[Q, R]):
    """A unary method of a stub."""

    def __call__(
        self, request: Q, *, timeout: float | None = None, metadata: grpc.aio.Metadata | None = None
    ) -> Awaitable[R]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Gateway:
    """One that can be talked to."""

    address: str
    channel: grpc.aio.Channel
    stub: gateway_pb2_grpc.GatewayServiceStub
    api_key: str = field(repr=False)

    def metadata(self) -> grpc.aio.Metadata:
        """What each RPC says: who calls, and the W3C trace context of the current span."""
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return grpc.aio.Metadata(*key.items(), *_trace_context().items())


class Transport:
    """The channels, open between `open` and `close`."""

    def __init__(
        self,
        addresses: Addresses,
        policy: Policy,
        credentials: grpc.ChannelCredentials | None = None,
        ca_file: str = "",
        api_key: str = "",
    ) -> None:
        """What is given here counts more than what a connection file says."""
        self.addresses = addresses
        self.policy = policy
        self._credentials = credentials
        self._ca_file = ca_file
        self._api_key = api_key
        self._open = False
        self._reached = False
        self._gateways: dict[tuple[str, str, str], Gateway] = {}
        """All that were talked to; those that are gone cost a socket's memory."""
        self._gateway: Gateway | None = None
        self._last = ""
        """The address that was tried last."""

    def open(self) -> None:
        """Needs the running event loop. Connects when the first RPC is made."""
        self._open = True

    async def close(self) -> None:
        """Ends the RPCs that are still running."""
        gateways = list(self._gateways.values())
        self._gateways.clear()
        self._open, self._gateway = False, None
        for gateway in gateways:
            await gateway.channel.close()

    @property
    def reached(self) -> bool:
        """Whether some gateway has answered."""
        return self._reached

    @property
    def address(self) -> str:
        """Of the gateway that is talked to, else of the first that would be."""
        if self._gateway is not None:
            return self._gateway.address
        try:
            return self._last or self.addresses.read().addresses[0]
        except Unavailable:
            return self.addresses.said

    async def gateway(self, attempts: Attempts) -> Gateway:
        """The gateway to talk to now. Raises Unavailable when the addresses cannot be read in time."""
        if not self._open:
            raise RuntimeError("the client is not open: use it inside `async with legato.Client(...)`")
        while self._gateway is None:
            try:
                connection = await self._read()
            except Unavailable as failure:
                await attempts.after(failure, lost=True)
            else:
                self._gateway = self._gateway or self._choose(connection)
        return self._gateway

    async def recover(
        self, attempts: Attempts, gateway: Gateway, error: grpc.aio.AioRpcError, *, final: bool = False
    ) -> None:
        """Wait until it is time to try again, elsewhere if the gateway is gone. Raises LegatoError when it never is."""
        failure = error_from(error)
        gone = gateway_gone(failure)
        self._reached = self._reached or not gone
        if isinstance(failure, Unavailable) and self._gateway is gateway:
            self._gateway = None
        known = self._reached or self.addresses.path is not None
        try:
            await attempts.after(failure, lost=gone and known, final=final)
        except LegatoError as given_up:
            raise given_up from error

    def heard(self, attempts: Attempts) -> None:
        """There is output."""
        self._reached = True
        attempts.heard()

    async def unary(
        self,
        method: Callable[[gateway_pb2_grpc.GatewayServiceStub], Method[Q, R]],
        request: Q,
        policy: Policy | None = None,
    ) -> R:
        """Call an idempotent method. Raises LegatoError."""
        attempts = Attempts(policy or self.policy)
        while True:
            gateway = await self.gateway(attempts)
            try:
                call = method(gateway.stub)
                response = await call(request, timeout=attempts.remaining_seconds(), metadata=gateway.metadata())
            except grpc.aio.AioRpcError as error:
                await self.recover(attempts, gateway, error)
            else:
                self._reached = True
                return response

    async def _read(self) -> Connection:
        if self.addresses.path is None:
            return self.addresses.read()
        return await asyncio.to_thread(self.addresses.read)  # a shared file system may take its time

    def _choose(self, connection: Connection) -> Gateway:
        self._last = connection.after(self._last)
        key = (self._last, self._api_key or connection.api_key, self._ca_file or connection.ca_file)
        if key not in self._gateways:
            self._gateways[key] = self._connect(*key)
        return self._gateways[key]

    def _connect(self, address: str, api_key: str, ca_file: str) -> Gateway:
        channel = self._channel(address, ca_file)
        return Gateway(address, channel, gateway_pb2_grpc.GatewayServiceStub(channel), api_key)

    def _channel(self, address: str, ca_file: str) -> grpc.aio.Channel:
        credentials = self._credentials
        if credentials is None and ca_file:
            credentials = _trusting(ca_file)
        if credentials is None:
            return grpc.aio.insecure_channel(address, _INSIDE_OPTIONS)
        return grpc.aio.secure_channel(address, credentials, _OPTIONS)


def _trusting(ca_file: str) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    except OSError as error:
        message = f"the CA file {ca_file} cannot be read: {error.strerror or error}"
        raise InvalidRequest(message, field="ca_file") from None


def _trace_context() -> dict[str, str]:
    """Of the current span, where the process uses OpenTelemetry at all."""
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:  # otherwise there is no span, and importing it would cost for nothing
        inject: Callable[[dict[str, str]], None]
        from opentelemetry.propagate import inject

        inject(carrier)
    return carrier
