"""Failures become the SDK's exceptions, and are retried where that is safe."""

import asyncio

import grpc
import pytest

import legato
from legato.v1 import gateway_pb2
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import Context, FakeGateway, Step, finish, serving

BUSY = Failure(Reason.QUEUE_FULL, "the queue is full", retry_after_seconds=0.01)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.INVALID_ARGUMENT, legato.InvalidRequest),
        (Reason.CONTEXT_LENGTH_EXCEEDED, legato.ContextLengthExceeded),
        (Reason.UNAUTHENTICATED, legato.Unauthenticated),
        (Reason.MODEL_NOT_FOUND, legato.ModelNotFound),
        (Reason.CALL_EXISTS, legato.CallExists),
        (Reason.QUEUE_FULL, legato.Overloaded),
        (Reason.TOO_MANY_CALLS, legato.Overloaded),
        (Reason.QUEUE_TIMEOUT, legato.Overloaded),
        (Reason.DEADLINE_EXCEEDED, legato.DeadlineExceeded),
        (Reason.DEADLINE_UNREACHABLE, legato.DeadlineUnreachable),
        (Reason.CANCELLED, legato.CallCancelled),
        (Reason.NO_WORKER, legato.Unavailable),
        (Reason.ENGINE_DEAD, legato.Unavailable),
        (Reason.INTERNAL, legato.InternalError),
    ],
)
async def test_each_reason_has_its_exception(
    address: str, gateway: FakeGateway, reason: Reason, expected: type[legato.LegatoError]
) -> None:
    gateway.answers.append([Failure(reason, "so it goes", "messages[0]", 0.5, {"limit": "9"})])
    async with legato.Client(address, max_retries=0) as client, client.program() as program:
        with pytest.raises(legato.LegatoError) as caught:
            await program.agent("coder").chat("hi")
    error = caught.value
    assert type(error) is expected
    assert (str(error), error.reason, error.field) == ("so it goes", reason.name, "messages[0]")
    assert (error.retry_after_seconds, error.metadata) == (0.5, {"limit": "9"})
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)


@pytest.mark.parametrize(
    ("details", "code", "expected"),
    [
        (b"", grpc.StatusCode.NOT_FOUND, legato.NotFound),
        (b"\xff\xff mangled", grpc.StatusCode.INVALID_ARGUMENT, legato.InvalidRequest),
        (b"\x1a\x02\x0a\x00", grpc.StatusCode.DATA_LOSS, legato.InternalError),
    ],
)
async def test_a_status_without_our_details_still_says_what_it_can(
    details: bytes, code: grpc.StatusCode, expected: type[legato.LegatoError]
) -> None:
    class Foreign(FakeGateway):
        async def ListModels(
            self, request: gateway_pb2.ListModelsRequest, context: Context
        ) -> gateway_pb2.ListModelsResponse:
            return await context.abort(code, "foreign", (("grpc-status-details-bin", details),))

    async with serving(Foreign()) as address, legato.Client(address) as client:
        with pytest.raises(legato.LegatoError, match="foreign") as caught:
            await client.models()
    assert type(caught.value) is expected
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize("failure", [BUSY, Failure(Reason.NO_WORKER, "no worker yet")])
async def test_what_is_refused_for_now_is_asked_again(
    client: legato.Client, gateway: FakeGateway, failure: Failure
) -> None:
    gateway.answers.extend([[failure], [failure], ["at last", finish()]])
    async with asyncio.timeout(5), client.program() as program:
        reply = await program.agent("coder").chat("hi")
    assert reply.text == "at last"
    assert len({call.identity.call_id for call in gateway.calls}) == 1
    assert len(gateway.calls) == 3


async def test_a_retry_is_patient_with_what_the_try_before_left(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.extend([[BUSY], [Failure(Reason.CALL_EXISTS, "still dying", None, 0.01)], ["ok", finish()]])
    async with asyncio.timeout(5), client.program() as program:
        assert (await program.agent("coder").chat("hi")).text == "ok"


async def test_retries_are_bounded(address: str, gateway: FakeGateway) -> None:
    gateway.answers.extend([[BUSY]] * 5)
    async with legato.Client(address, max_retries=2) as client, client.program() as program:
        with pytest.raises(legato.Overloaded) as caught:
            await program.agent("coder").chat("hi")
    assert caught.value.retry_after_seconds == pytest.approx(0.01)
    assert len(gateway.calls) == 3


async def test_a_retry_that_would_pass_the_deadline_is_not_awaited(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append([Failure(Reason.QUEUE_FULL, "full", retry_after_seconds=3600)])
    async with asyncio.timeout(5), client.program() as program:
        with pytest.raises(legato.Overloaded):
            await program.agent("coder").chat("hi")


@pytest.mark.parametrize("failure", [BUSY, Failure(Reason.ENGINE_DEAD, "gone")])
async def test_nothing_is_retried_once_there_was_output(
    client: legato.Client, gateway: FakeGateway, failure: Failure
) -> None:
    answer: list[Step] = ["half a sen", failure]
    gateway.answers.append(answer)
    async with client.program() as program:
        with pytest.raises((legato.Overloaded, legato.Unavailable)):
            await program.agent("coder").chat("hi")
    assert len(gateway.calls) == 1


async def test_bad_requests_are_not_retried(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append([Failure(Reason.MODEL_NOT_FOUND, "no such model")])
    async with client.program() as program:
        with pytest.raises(legato.ModelNotFound):
            await program.agent("coder").chat("hi", model="huge")
    assert len(gateway.calls) == 1


async def test_a_gateway_that_is_not_there_is_unavailable() -> None:
    async with legato.Client("127.0.0.1:1", max_retries=1) as client:
        with pytest.raises(legato.Unavailable) as caught:
            await client.workers()
    assert caught.value.reason == "UNREACHABLE"
