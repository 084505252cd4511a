"""A call's output: in order, complete, and aborted when nobody wants it any more."""

import asyncio

import pytest

import legato
from legato.v1 import call_pb2, gateway_pb2
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import FakeGateway, Pause, finish


def tool_call(index: int, arguments: str, call_id: str = "", name: str = "") -> gateway_pb2.ChatResponse:
    piece = call_pb2.ToolCall(index=index, id=call_id, name=name, arguments=arguments)
    return gateway_pb2.ChatResponse(tool_calls=[piece], num_tokens=1)


async def test_pieces_come_in_order_and_the_reply_holds_them_all(client: legato.Client, gateway: FakeGateway) -> None:
    identity_alone = gateway_pb2.ChatResponse(identity=call_pb2.CallIdentity(call_id="x"))
    thought = gateway_pb2.ChatResponse(reasoning="hm", num_tokens=1)
    gateway.answers.append([identity_alone, thought, "a", "b", "c", finish()])
    async with client.program("p") as program, program.agent("coder").stream("hi") as stream:
        pieces = [piece async for piece in stream]
    assert [piece.reasoning for piece in pieces] == ["hm", "", "", ""]
    assert [piece.text for piece in pieces] == ["", "a", "b", "c"]
    reply = stream.reply
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("abc", "hm", "stop")
    assert reply.usage == legato.Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4, reasoning_tokens=1)
    assert reply.timings == legato.Timings(queue_seconds=0.5, prefill_seconds=0.25, decode_seconds=2.0, restarts=1)
    assert (reply.program_id, reply.call_id, reply.model, reply.worker_id) == ("p", stream.call_id, "tiny", "worker-1")
    assert reply.eta is None


async def test_a_reply_says_when_its_program_will_be_done(client: legato.Client, gateway: FakeGateway) -> None:
    eta = call_pb2.Eta(expected_seconds=9, low_seconds=5, high_seconds=20)
    gateway.answers.append([gateway_pb2.ChatResponse(text="a", num_tokens=1, eta=eta), "b", finish()])
    async with client.program() as program:
        reply = await program.agent("coder").chat("hi")
    assert reply.eta == legato.Eta(9.0, 5.0, 20.0)


async def test_pieces_are_delivered_while_the_call_still_runs(client: legato.Client, gateway: FakeGateway) -> None:
    go_on = asyncio.Event()
    gateway.answers.append(["first", go_on, "second", finish()])
    async with asyncio.timeout(5), client.program() as program, program.agent("coder").stream("hi") as stream:
        assert (await anext(stream)).text == "first"
        with pytest.raises(RuntimeError, match="not ended"):
            _ = stream.reply
        go_on.set()
        assert (await stream.finish()).text == "firstsecond"
    assert gateway.calls[0].incremental


async def test_pieces_of_tool_calls_are_put_together(client: legato.Client, gateway: FakeGateway) -> None:
    pieces = [
        tool_call(0, "", "t0", "search"),
        tool_call(1, "{}", "t1", "now"),
        tool_call(0, '{"q":'),
        tool_call(0, "1}"),
    ]
    gateway.answers.append([*pieces, finish(call_pb2.FINISH_REASON_TOOL_CALLS)])
    async with client.program() as program:
        reply = await program.agent("coder").chat("hi")
    assert reply.finish_reason == "tool_calls"
    assert reply.tool_calls == (legato.ToolCall("t0", "search", '{"q":1}'), legato.ToolCall("t1", "now", "{}"))
    assert reply.tool_calls[0].parsed() == {"q": 1}
    assert reply.message == legato.assistant("", tool_calls=reply.tool_calls)
    assert not gateway.calls[0].incremental


async def test_logprobs_come_with_their_alternatives(client: legato.Client, gateway: FakeGateway) -> None:
    other = call_pb2.TokenLogprob(token_id=2, logprob=-2.0, token="b")
    token = call_pb2.TokenLogprob(token_id=1, logprob=-0.5, token="a", top=[other])
    gateway.answers.append([gateway_pb2.ChatResponse(text="a", logprobs=[token]), finish()])
    async with client.program() as program:
        reply = await program.agent("coder").chat("hi", logprobs=1)
    assert reply.logprobs == (legato.TokenLogprob(1, "a", -0.5, top=(legato.TokenLogprob(2, "b", -2.0),)),)


async def test_leaving_a_stream_early_cancels_the_call(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append(["first", Pause.FOREVER])
    async with client.program() as program:
        async with program.agent("coder").stream("hi") as stream:
            async for _ in stream:
                break
        async with asyncio.timeout(5):
            await gateway.cancelled.wait()


async def test_cancelling_the_task_cancels_the_call(client: legato.Client, gateway: FakeGateway) -> None:
    reached = asyncio.Event()
    gateway.answers.append(["first", Pause.FOREVER])

    async def read() -> None:
        async with program.agent("coder").stream("hi") as stream:
            async for _ in stream:
                reached.set()

    async with client.program() as program, asyncio.timeout(5):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(read())
            await reached.wait()
            task.cancel()
        await gateway.cancelled.wait()
    assert task.cancelled()


async def test_the_deadline_cancels_the_call(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append(["first", Pause.FOREVER])
    async with client.program() as program, asyncio.timeout(5):
        with pytest.raises(legato.DeadlineExceeded):
            await program.agent("coder").chat("hi", deadline_seconds=0.2)
        await gateway.cancelled.wait()


async def test_a_call_aborted_by_somebody_else_is_no_reply(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append(["half", finish(call_pb2.FINISH_REASON_ABORT)])
    gateway.answers.append([Failure(Reason.CANCELLED, "aborted by an operator")])
    async with client.program() as program:
        for _ in range(2):
            with pytest.raises(legato.CallCancelled):
                await program.agent("coder").chat("hi")


async def test_a_call_whose_engine_fails_or_that_never_finishes_is_an_error(
    client: legato.Client, gateway: FakeGateway
) -> None:
    gateway.answers.append(["half", finish(call_pb2.FINISH_REASON_ERROR)])
    gateway.answers.append(["half"])
    async with client.program() as program:
        for _ in range(2):
            with pytest.raises(legato.InternalError):
                await program.agent("coder").chat("hi")


async def test_a_stream_is_read_inside_its_context(client: legato.Client) -> None:
    stream = client.program().agent("coder").stream("hi")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(stream)


async def test_a_client_is_used_inside_its_context() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await legato.Client("127.0.0.1:1").models()
