"""A connection to one of several etcd servers: moves on when that one fails, renews its token, bounds every call.

Endpoints are tried in the order given, each over a channel of its own, so that host names and TLS names work (one
channel takes many addresses only as bare IP numbers). `call` raises `Unavailable` when no server answered in time, and
EtcdError for whatever a server refused. A call that may be repeated is repeated until its time is up; its attempts
share that time so that one frozen server leaves some for the others.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from services.common.registry import etcd_pb2 as pb

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),  # etcd closes connections that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_http_proxy", 0),  # a site's web proxy is not the way to its own etcd
)
TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
REQUIRE_LEADER = ("hasleader", "true")
"""Makes a server that lost its cluster fail calls and streams at once instead of keeping them waiting."""


class EtcdError(Exception):
    """etcd refused a request."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


class Unavailable(EtcdError):
    """No server answered in time. A write may have happened."""


def failure_of(error: grpc.aio.AioRpcError | TimeoutError) -> EtcdError:
    """What an error of gRPC, or running out of time, means to a caller."""
    if isinstance(error, TimeoutError):
        return Unavailable(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time")
    kind = Unavailable if error.code() in TRANSIENT else EtcdError
    return kind(error.code(), error.details() or "")


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """An RPC by its path. Calls with one request and one response may name a streaming method: on the wire it is
    the same."""

    path: str
    request: type[Q]
    response: type[R]


AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)


class Connection:
    """Calls methods of whichever server answers. Use within one event loop; `close` when done."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        user: str = "",
        password: str = "",
        timeout_seconds: float = 5.0,
    ) -> None:
        if not endpoints:
            raise ValueError("at least one endpoint is needed")
        self._channels = [_channel(endpoint, credentials) for endpoint in endpoints]
        self.current = 0
        """Index of the server in use."""
        self._user, self._password = user, password
        self._token = ""
        self._authenticating = asyncio.Lock()
        self._timeout_seconds = timeout_seconds

    @property
    def authenticated(self) -> bool:
        """Whether a token is held; it may be void by now."""
        return self._token != ""

    def forget_token(self) -> None:
        """Authenticate again before the next call."""
        self._token = ""

    def move_on(self, index: int) -> None:
        """Server `index` failed: if it is the current one, use the next from now on. What runs on it goes on."""
        if index == self.current:
            self.current = (index + 1) % len(self._channels)

    async def close(self) -> None:
        """End every call."""
        for channel in self._channels:
            await channel.close()

    async def call(
        self, method: Method[Q, R], request: Q, *, repeatable: bool, timeout_seconds: float | None = None
    ) -> R:
        """One request, one response. `repeatable`: doing it twice is the same as once."""
        now = asyncio.get_running_loop().time
        timeout_seconds = timeout_seconds or self._timeout_seconds
        give_up_at = now() + timeout_seconds
        attempt_seconds = timeout_seconds / len(self._channels) if repeatable else timeout_seconds
        renewed = False
        while True:
            index = self.current
            try:
                return await self._attempt(index, method, request, min(attempt_seconds, give_up_at - now()))
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if _token_void(error) and self._token and not renewed:
                    renewed = True
                    self.forget_token()
                    continue
                failure = failure_of(error)
                if not isinstance(failure, Unavailable):
                    raise failure from error
                self.move_on(index)
                pause_seconds = random.uniform(0.05, 0.15)
                if not repeatable or now() + pause_seconds >= give_up_at:
                    raise failure from error
            await asyncio.sleep(pause_seconds)

    async def stream(self, method: Method[Q, R], requests: AsyncIterator[Q]) -> "grpc.aio.StreamStreamCall[Q, R]":
        """Open a stream in both directions. The caller cancels it, and moves on when it breaks."""
        channel = self._channels[self.current]
        start = channel.stream_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return start(requests, metadata=await self._metadata(channel, self._timeout_seconds))

    async def _attempt(self, index: int, method: Method[Q, R], request: Q, timeout_seconds: float) -> R:
        channel = self._channels[index]
        start = channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        metadata = await self._metadata(channel, timeout_seconds)
        return await start(request, timeout=timeout_seconds, metadata=metadata)

    async def _metadata(self, channel: grpc.aio.Channel, timeout_seconds: float) -> Sequence[tuple[str, str]]:
        if not self._user:
            return (REQUIRE_LEADER,)
        async with asyncio.timeout(timeout_seconds), self._authenticating:
            if not self._token:
                start = channel.unary_unary(
                    AUTHENTICATE.path, AUTHENTICATE.request.SerializeToString, AUTHENTICATE.response.FromString
                )
                request = pb.AuthenticateRequest(name=self._user, password=self._password)
                self._token = (await start(request)).token
        return (REQUIRE_LEADER, ("token", self._token))


def _channel(endpoint: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)


def _token_void(error: grpc.aio.AioRpcError | TimeoutError) -> bool:
    """Tokens end with the server's process, after five idle minutes, and with each change of users or roles."""
    if isinstance(error, TimeoutError):
        return False
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or "auth store is old" in (error.details() or "")
