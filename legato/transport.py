"""One gRPC channel to a gateway, and the rules by which RPCs are tried again.

What was refused or found nobody (`Overloaded`, `Unavailable`) is tried again, at most `max_retries` times and never
past the deadline: after the pause that the server asked for, or after one that doubles, both jittered so that a
thousand programs do not come back at once.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc

from legato.errors import CallExists, LegatoError, Overloaded, Unavailable, error_from
from legato.v1 import gateway_pb2_grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # what our own gateway sends is bounded by max_tokens
    ("grpc.keepalive_time_ms", 20_000),  # a host that vanishes without a word during a call is noticed within 30 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_INSIDE_OPTIONS = (*_OPTIONS, ("grpc.enable_http_proxy", 0))  # clusters set http_proxy for the way out alone
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0

Q = TypeVar("Q", contravariant=True)
R = TypeVar("R", covariant=True)


class Method(Protocol[Q, R]):
    """A unary method of a stub."""

    def __call__(
        self, request: Q, *, timeout: float | None = None, metadata: grpc.aio.Metadata | None = None
    ) -> Awaitable[R]: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is."""

    max_retries: int
    deadline_seconds: float | None


class Attempts:
    """The tries of one RPC."""

    def __init__(self, policy: Policy, deadline_seconds: float | None = None) -> None:
        seconds = policy.deadline_seconds if deadline_seconds is None else deadline_seconds
        self._now = asyncio.get_running_loop().time
        self._deadline = None if seconds is None else self._now() + seconds
        self._left = policy.max_retries
        self._next_pause_seconds = _FIRST_PAUSE_SECONDS
        self._first = True

    def remaining_seconds(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._now())

    async def after(self, error: grpc.aio.AioRpcError, *, final: bool = False) -> None:
        """Wait until it is time to try again; when it never is, or the failure is `final`, raise what it means."""
        failure = error_from(error)
        pause = None if final or self._left <= 0 or not self._retriable(failure) else self._pause_after(failure)
        remaining = self.remaining_seconds()
        if pause is None or (remaining is not None and pause >= remaining):
            raise failure from error
        self._left -= 1
        self._first = False
        await asyncio.sleep(pause)

    def _retriable(self, failure: LegatoError) -> bool:
        # CallExists: the try before may still be dying at the gateway under the same call id.
        return isinstance(failure, Overloaded | Unavailable) or (isinstance(failure, CallExists) and not self._first)

    def _pause_after(self, failure: LegatoError) -> float:
        """Seconds: what the server asked for or a little more; otherwise doubling."""
        if failure.retry_after_seconds is not None:
            return failure.retry_after_seconds * random.uniform(1.0, 1.25)
        pause = self._next_pause_seconds * random.uniform(0.5, 1.0)
        self._next_pause_seconds = min(2 * self._next_pause_seconds, _LONGEST_PAUSE_SECONDS)
        return pause


class Transport:
    """The channel, open between `open` and `close`."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None, policy: Policy) -> None:
        self.address = address
        self.policy = policy
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._stub: gateway_pb2_grpc.GatewayServiceStub | None = None

    def open(self) -> None:
        """Needs the running event loop. Connects when the first RPC is made."""
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self.address, _INSIDE_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self.address, self._credentials, _OPTIONS)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)

    async def close(self) -> None:
        """Ends the RPCs that are still running."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    @property
    def stub(self) -> gateway_pb2_grpc.GatewayServiceStub:
        """The gateway. Raises RuntimeError when the client is not open."""
        if self._stub is None:
            raise RuntimeError("the client is not open: use it inside `async with legato.Client(...)`")
        return self._stub

    async def unary(self, method: Method[Q, R], request: Q, policy: Policy | None = None) -> R:
        """Call an idempotent method. Raises LegatoError."""
        attempts = Attempts(policy or self.policy)
        while True:
            try:
                return await method(request, timeout=attempts.remaining_seconds(), metadata=trace_metadata())
            except grpc.aio.AioRpcError as error:
                await attempts.after(error)


def trace_metadata() -> grpc.aio.Metadata:
    """W3C trace context of the current span, where the process uses OpenTelemetry at all."""
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:  # otherwise there is no span, and importing it would cost for nothing
        inject: Callable[[dict[str, str]], None]
        from opentelemetry.propagate import inject

        inject(carrier)
    return grpc.aio.Metadata(*carrier.items())
