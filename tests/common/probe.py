"""A gRPC service of all four kinds of RPC over plain bytes, and its client."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from services.common import rpc
from services.common.server import GrpcServer, grpc_server

NAME = "test.Probe"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
ENDLESS = ("WatchProbe", "Attend")
"""Named as what lasts as long as the peers do; of the kind unary_stream."""

Act: TypeAlias = Callable[[bytes], Awaitable[bytes]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Probe:
    """Answers each request with what `act` makes of it."""

    def __init__(self, act: Act) -> None:
        self._act = act

    async def unary_unary(self, request: bytes, _: Any) -> bytes:
        return await self._act(request)

    async def unary_stream(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        yield await self._act(request)

    async def stream_unary(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"".join([await self._act(request) async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._act(request)

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        handlers: dict[str, Any] = {
            "unary_unary": grpc.unary_unary_rpc_method_handler(self.unary_unary),
            "unary_stream": grpc.unary_stream_rpc_method_handler(self.unary_stream),
            "stream_unary": grpc.stream_unary_rpc_method_handler(self.stream_unary),
            "stream_stream": grpc.stream_stream_rpc_method_handler(self.stream_stream),
        }
        handlers |= dict.fromkeys(ENDLESS, handlers["unary_stream"])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        return [NAME]


@dataclass(frozen=True)
class Client:
    """Calls a probe."""

    channel: grpc.aio.Channel
    server: GrpcServer

    async def call(self, kind: str, request: bytes = b"", metadata: Metadata = ()) -> bytes:
        """One request by that kind of RPC; its one response."""
        sent: Any = _once(request) if kind.startswith("stream") else request
        # The kinds' stubs have no type in common.
        stub: Any = getattr(self.channel, "unary_stream" if kind in ENDLESS else kind)
        call = stub(f"/{NAME}/{kind}")(sent, metadata=metadata, timeout=10)
        if kind.endswith("unary"):
            return await call
        return b"".join([response async for response in call])


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request


@asynccontextmanager
async def probe(act: Act, drain_seconds: float = 5.0) -> AsyncGenerator[Client]:
    """A served probe and a client of it."""
    async with (
        grpc_server(Probe(act).add_to, host="127.0.0.1", port=0, drain_seconds=drain_seconds) as server,
        rpc.channel(server.address) as channel,
    ):
        yield Client(channel, server)
