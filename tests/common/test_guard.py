"""Who is refused at a door leaves nothing of what it sent: a guard is asked before a request is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from services.common import rpc
from services.common.access import Context
from services.common.errors import Failure, Reason
from services.common.server import Door, GrpcServer, grpc_server
from tests.common.probe import KINDS, NAME, Probe

KEY = ("key", "right")
BIG = bytes(1 << 20)
GARBAGE = b"garbage"


class Guarded(Probe):
    """A probe for those with the key, that notes each message which was taken off the wire."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.read: list[int] = []
        self.let_in = asyncio.Event()
        self.answering, self.answer = asyncio.Event(), asyncio.Event()
        self.answer.set()

    def guard(self, _: str, context: Context) -> None:
        if KEY not in tuple(context.invocation_metadata() or ()):
            raise Failure(Reason.UNAUTHENTICATED, "no key")
        self.let_in.set()

    async def _answer(self, request: bytes) -> bytes:
        self.answering.set()
        await self.answer.wait()
        return request

    def _take(self, message: bytes) -> bytes:
        self.read.append(len(message))
        if message == GARBAGE:
            raise DecodeError("as of protobuf")
        return message

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        untyped: Any = grpc  # its handlers are of unknown types
        handlers = {
            kind: getattr(untyped, f"{kind}_rpc_method_handler")(getattr(self, kind), request_deserializer=self._take)
            for kind in KINDS
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        return [NAME]


def served(probe: Guarded, drain_seconds: float) -> AbstractAsyncContextManager[GrpcServer]:
    door = Door(guard=probe.guard)
    return grpc_server(probe.add_to, host="127.0.0.1", port=0, drain_seconds=drain_seconds, door=door)


@asynccontextmanager
async def guarded() -> AsyncGenerator[tuple[Guarded, grpc.aio.Channel]]:
    probe = Guarded()
    async with served(probe, 0) as server, rpc.channel(server.address) as channel, asyncio.timeout(10):
        yield probe, channel


def streaming(channel: grpc.aio.Channel, kind: str, requests: AsyncIterator[bytes], *metadata: tuple[str, str]) -> Any:
    """The method, with as many requests as there are: none, and one that never comes, too."""
    untyped: Any = channel
    call = untyped.stream_unary if kind.endswith("unary") else untyped.stream_stream
    return call(f"/{NAME}/{kind}")(requests, metadata=metadata)


async def outcome(call: Any) -> bytes:
    return b"".join([response async for response in call]) if hasattr(call, "__aiter__") else await call


async def sent(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def unsent() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_without_the_key_is_not_read(kind: str) -> None:
    async with guarded() as (probe, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await outcome(streaming(channel, kind, sent(BIG)))
        assert rpc.failure_from(refused.value).reason is Reason.UNAUTHENTICATED
        assert probe.read == []
        assert await outcome(streaming(channel, kind, sent(BIG), KEY)) == BIG
        assert probe.read == [len(BIG)]


@pytest.mark.parametrize("kind", KINDS)
async def test_who_has_no_key_is_told_before_it_sends_anything(kind: str) -> None:
    async with guarded() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await outcome(streaming(channel, kind, unsent()))
        assert rpc.failure_from(refused.value).reason is Reason.UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_an_rpc_without_a_request_that_can_be_used_is_refused(kind: str) -> None:
    async with guarded() as (_, channel):
        for requests, message in ((sent(), "ended before its request"), (sent(GARBAGE), "is no request of this")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await outcome(streaming(channel, kind, requests, KEY))
            failure = rpc.failure_from(refused.value)
            assert failure.reason is Reason.INVALID_ARGUMENT
            assert message in failure.message


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_no_drain_waits_for_a_request_that_was_not_sent(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    probe = Guarded()
    async with served(probe, drain_seconds=2) as server:
        channel = rpc.channel(server.address)
        waiting = asyncio.ensure_future(outcome(streaming(channel, kind, unsent(), KEY)))
        await probe.let_in.wait()
    await asyncio.wait([waiting])
    await channel.close()
    assert "outlasted the drain" not in caplog.text


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_request_that_is_sent_during_the_drain_is_refused(kind: str) -> None:
    probe, draining = Guarded(), asyncio.Event()
    probe.answer.clear()

    async def late() -> AsyncIterator[bytes]:
        await draining.wait()
        yield b"late"

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        async with served(probe, drain_seconds=60) as server:
            channel = rpc.channel(server.address)
            live = tasks.create_task(outcome(streaming(channel, kind, sent(b"live"), KEY)))
            await probe.answering.wait()
            probe.let_in.clear()
            refused = asyncio.ensure_future(outcome(streaming(channel, kind, late(), KEY)))
            await probe.let_in.wait()

            async def finish() -> None:
                await server.draining.wait()
                draining.set()
                await asyncio.wait([refused])
                probe.answer.set()

            tasks.create_task(finish())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused
        assert await live == b"live"
        await channel.close()
    assert rpc.failure_from(caught.value).reason is Reason.DRAINING


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_client_that_goes_away_before_its_request_leaves_no_error(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded() as (probe, channel):
        for _ in range(20):
            probe.let_in.clear()
            call = streaming(channel, kind, unsent(), KEY)
            leaving = asyncio.ensure_future(outcome(call))
            await probe.let_in.wait()
            call.cancel()
            await asyncio.wait([leaving])
        assert await outcome(streaming(channel, kind, sent(b"x"), KEY)) == b"x"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
