"""How failures, bugs and trace contexts cross the wire, for each kind of RPC."""

import asyncio
import logging
from dataclasses import asdict

import grpc
import pytest

from services.common import rpc
from services.common.errors import Failure, Reason
from tests.common.probe import KINDS, NAME, Client, probe
from tests.servers import free_port

FAILURE = Failure(
    Reason.QUEUE_FULL, "queue of 10 is full: é", field="calls[3].n", retry_after_seconds=1.5, metadata={"limit": "10"}
)


async def refuse(_: bytes) -> bytes:
    raise FAILURE


async def stumble(_: bytes) -> bytes:
    raise ValueError("the secret is 42")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_arrives_as_it_was_raised(kind: str):
    async with probe(refuse) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(kind)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert asdict(rpc.failure_from(caught.value)) == asdict(FAILURE)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_arrives_as_an_error_id_and_nothing_else(kind: str, caplog: pytest.LogCaptureFixture):
    async with probe(stumble) as client:
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call(kind)
    failure = rpc.failure_from(caught.value)
    assert failure.reason is Reason.INTERNAL
    assert failure.message == f"internal error {failure.metadata['error_id']}"
    assert b"secret" not in rpc.status_of(failure).SerializeToString()
    assert "secret" not in str(caught.value)
    assert failure.metadata["error_id"] in caplog.text
    assert "the secret is 42" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_whose_channel_is_closed_leaves_nobody_without_an_answer(kind: str):
    asked = asyncio.Event()

    async def hang(_: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with probe(hang, drain_seconds=0) as inner, rpc.channel(inner.server.address) as channel:

        async def ask(_: bytes) -> bytes:
            return await Client(channel, inner.server).call("unary_unary")

        async with probe(ask, drain_seconds=0) as outer:
            answer = asyncio.ensure_future(outer.call(kind))
            await asked.wait()
            await channel.close()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer
    assert rpc.failure_from(caught.value).reason is Reason.UNAVAILABLE


async def test_a_failure_among_tasks_is_still_that_failure():
    async def together(_: bytes) -> bytes:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse(b""))
        return b""

    async with probe(together) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("unary_unary")
    assert rpc.failure_from(caught.value).reason is Reason.QUEUE_FULL


async def test_a_failure_beside_a_bug_is_a_bug():
    async def together(_: bytes) -> bytes:
        raise ExceptionGroup("both", [FAILURE, ValueError("bug")])

    async with probe(together) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("unary_unary")
    assert rpc.failure_from(caught.value).reason is Reason.INTERNAL


@pytest.mark.parametrize("text", ["é" * 1_000_000, "lone \ud800 surrogate", "line\nbreak\x00"])
async def test_any_text_fits_in_a_status(text: str):
    async def refuse_at_length(_: bytes) -> bytes:
        raise Failure(Reason.INVALID_ARGUMENT, text, field=text)

    async with probe(refuse_at_length) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("unary_unary")
    failure = rpc.failure_from(caught.value)
    assert failure.reason is Reason.INVALID_ARGUMENT
    assert failure.message[:4] == text[:4]
    assert failure.field == failure.message


async def test_an_absent_peer_is_unavailable():
    async with rpc.channel(f"127.0.0.1:{free_port()}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{NAME}/unary_unary")(b"")
    assert rpc.failure_from(caught.value).reason is Reason.UNAVAILABLE


async def test_an_expired_deadline_is_a_deadline():
    async def hang(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with probe(hang) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary(f"/{NAME}/unary_unary")(b"", timeout=0.05)
    assert rpc.failure_from(caught.value).reason is Reason.DEADLINE_EXCEEDED


async def test_a_foreign_status_keeps_its_message():
    async with probe(refuse) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary(f"/{NAME}/no_such_method")(b"")
    failure = rpc.failure_from(caught.value)
    assert failure.reason is Reason.METHOD_NOT_ALLOWED
    assert failure.message == caught.value.details()


async def test_messages_of_many_megabytes_pass():
    async def echo(request: bytes) -> bytes:
        return request

    async with probe(echo) as client:
        assert len(await client.call("unary_unary", bytes(20_000_000))) == 20_000_000
