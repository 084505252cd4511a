"""A call that was begun at a gateway that died goes on at another one behind what its client has."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, kv_pb2, worker_pb2
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.state.embedded import shared
from services.gateway.piece import Pending
from services.gateway.wire import request_of
from services.workflow.log import replay
from tests.gateway.conftest import World
from tests.gateway.fakes import CONTEXT_TOKENS, counting

IDENTITY = call_pb2.CallIdentity(program_id="p", call_id="c")
HAD = gateway_pb2.Resume(token_ids=[100, 101, 102], num_chars=6)
JSON = call_pb2.Constraint(json_object=True)


@pytest.fixture
async def stub(world: World) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    world.worker.script = counting(8)
    async with rpc.channel(world.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


def chat(**fields: Any) -> gateway_pb2.ChatRequest:
    fields.setdefault("messages", [gateway_pb2.Message(role="user", content="hello")])
    fields.setdefault("incremental", True)
    return gateway_pb2.ChatRequest(identity=IDENTITY, **fields)


async def all_of(
    stub: gateway_pb2_grpc.GatewayServiceStub, request: gateway_pb2.ChatRequest
) -> list[gateway_pb2.ChatResponse]:
    return [event async for event in stub.Chat(request)]


async def test_each_piece_names_its_tokens(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    events = await all_of(stub, chat())
    assert [token for event in events for token in event.token_ids] == list(range(100, 108))
    assert all(len(event.token_ids) == event.num_tokens for event in events)
    assert not any(event.HasField("seed") for event in events)


@pytest.mark.parametrize("incremental", [True, False])
async def test_what_the_client_has_does_not_come_again(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub, incremental: bool
) -> None:
    events = await all_of(stub, chat(resume=HAD, incremental=incremental, sampling=call_pb2.Sampling(max_tokens=20)))
    assert "".join(event.text for event in events) == " 3 4 5 6 7"
    assert events[0].offset == 3
    assert [token for event in events for token in event.token_ids] == list(range(103, 108))
    assert events[-1].finish.usage.completion_tokens == 8
    [start] = world.worker.starts
    assert (start.num_resumed_tokens, start.num_resumed_chars, start.sampling.max_tokens) == (3, 6, 20)
    assert list(start.prompt_token_ids[-3:]) == [100, 101, 102]
    [submit] = world.scheduler.said("submit")
    assert (submit.prompt_tokens, submit.max_tokens) == (len(start.prompt_token_ids), 17)


async def test_the_blocks_of_what_was_generated_count_when_it_is_placed(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    await all_of(stub, chat())
    await all_of(stub, chat(resume=gateway_pb2.Resume(token_ids=[5] * 64)))
    before, after = world.scheduler.said("submit")
    assert len(after.block_hashes) == len(before.block_hashes) + 2


async def test_a_resumed_call_outlives_its_worker_too(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    world.worker.stop_after = 2
    call = stub.Chat(chat(resume=HAD))
    text = ""
    async for event in call:
        text += event.text
        if text.endswith(" 4") and world.worker.stop_after is not None:
            world.worker.stop_after = None
            await world.worker.hang_up()
    assert text == " 3 4 5 6 7"
    [lose] = world.scheduler.said("lose")
    assert lose.generated_tokens == 2  # those that the scheduler does not know of
    assert [start.num_resumed_tokens for start in world.worker.starts] == [3, 5]


async def test_a_resumed_call_is_handed_from_worker_to_worker(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    world.scheduler.plans.append(kv_pb2.KVPlan(hand_off=True))
    events = await all_of(stub, chat(resume=HAD))
    assert "".join(event.text for event in events) == " 3 4 5 6 7"
    [handed] = world.scheduler.said("hand_off")
    assert handed.generated_tokens == 1


async def test_the_seed_that_was_drawn_goes_with_the_call(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    first, *rest = await all_of(stub, chat(constraint=JSON))
    assert first.HasField("seed")
    assert not any(event.HasField("seed") for event in rest)
    had = gateway_pb2.Resume(token_ids=[100], num_chars=2, seed=first.seed)
    again, *_ = await all_of(stub, chat(constraint=JSON, resume=had))
    assert again.seed == first.seed
    assert [start.sampling.seed for start in world.worker.starts] == [first.seed] * 2


async def test_a_seed_that_the_caller_named_is_not_told(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    events = await all_of(stub, chat(constraint=JSON, sampling=call_pb2.Sampling(seed=7)))
    assert not any(event.HasField("seed") for event in events)


async def test_what_cannot_go_on_as_it_began_is_refused(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    failure = await refusal(stub, chat(constraint=JSON, resume=HAD))
    assert (failure.reason, failure.field) == (Reason.INVALID_ARGUMENT, "resume.seed")
    greedy = call_pb2.Sampling(temperature=0)
    assert await all_of(stub, chat(constraint=JSON, resume=HAD, sampling=greedy))


async def test_the_call_log_has_one_end_that_counts_all_tokens(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    with shared(world.settings.cluster.name) as store:
        await all_of(stub, chat(resume=HAD))
        entries: list[Any] = []
        async with asyncio.timeout(10):
            async for batch in replay(store, follow=True):
                entries += batch
                if any(entry.HasField("ended") for entry in entries):
                    break
    began, ended = entries
    assert began.began.prompt_tokens == len(world.worker.starts[0].prompt_token_ids) - 3
    assert ended.ended.usage.completion_tokens == 8
    assert ended.ended.output == 0  # only a part of it came by


TOO_MANY = "resume.token_ids: at most max_tokens (2), got 3"
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"resume": HAD, "sampling": call_pb2.Sampling(max_tokens=2)}, "resume.token_ids", TOO_MANY),
    ({"resume": gateway_pb2.Resume(token_ids=[1] * CONTEXT_TOKENS)}, "resume.token_ids", "at most max_tokens"),
    ({"resume": gateway_pb2.Resume(token_ids=[2**32 - 1])}, "resume.token_ids", "are below"),
    ({"resume": gateway_pb2.Resume(num_chars=3)}, "resume.num_chars", "must be 0 without"),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD)
async def test_what_nobody_can_have_is_refused(
    stub: gateway_pb2_grpc.GatewayServiceStub, fields: dict[str, Any], field: str, message: str
) -> None:
    failure = await refusal(stub, chat(**fields))
    assert (failure.reason, failure.field) == (Reason.INVALID_ARGUMENT, field)
    assert message in failure.message


async def refusal(stub: gateway_pb2_grpc.GatewayServiceStub, request: gateway_pb2.ChatRequest) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(stub.Chat(request)))
    return rpc.failure_from(error.value)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=80), st.integers(0, 50))
def test_offsets_go_on_where_they_were(outputs: list[tuple[int, bool]], had: int) -> None:
    pending, offset = Pending(had), had
    for num_tokens, taken in [*outputs, (0, True)]:
        pending.add(worker_pb2.CallOutput(token_ids=range(num_tokens)))
        if taken and (piece := pending.take()):
            assert piece.offset == offset
            offset += len(piece.token_ids)
    assert offset == had + sum(num_tokens for num_tokens, _ in outputs)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(0, 2**32 - 1), st.none() | st.integers(-9, 9))
def test_a_resume_is_taken_as_it_was_sent(token_ids: list[int], num_chars: int, seed: int | None) -> None:
    num_chars = num_chars if token_ids else 0
    asked = chat(resume=gateway_pb2.Resume(token_ids=token_ids, num_chars=num_chars))
    if seed is not None:
        asked.resume.seed = seed
    resume = request_of(asked, 0).resume
    assert resume is not None
    assert (list(resume.token_ids), resume.num_chars, resume.seed) == (token_ids, num_chars, seed)
