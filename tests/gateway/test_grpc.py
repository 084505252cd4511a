"""The gRPC door, as the SDK uses it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, kv_pb2, scheduler_pb2
from services.common import rpc
from services.common.errors import Reason
from tests.gateway.conftest import World
from tests.gateway.fakes import counting


@pytest.fixture
async def stub(world: World) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    async with rpc.channel(world.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


def chat(**fields: Any) -> gateway_pb2.ChatRequest:
    fields.setdefault("messages", [gateway_pb2.Message(role="user", content="hello")])
    return gateway_pb2.ChatRequest(**fields)


async def test_a_call_runs_and_ends_with_its_account(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    identity = call_pb2.CallIdentity(program_id="p", call_id="c", agent="coder", parents=["b"])
    events = [event async for event in stub.Chat(chat(identity=identity, incremental=True, priority=4))]
    assert "".join(event.text for event in events) == " 0 1 2 3 4"
    assert events[0].identity == identity
    assert sum(event.num_tokens for event in events) == 5
    assert [event.HasField("finish") for event in events] == [False] * (len(events) - 1) + [True]
    finish = events[-1].finish
    assert (finish.model, finish.worker_id) == ("tiny", "worker-0")
    assert finish.usage.completion_tokens == 5
    assert finish.timings.prefill_seconds == 0.5
    assert finish.timings.queue_seconds >= 0.25
    assert world.scheduler.said("submit")[0].priority == 4
    assert world.worker.starts[0].identity == identity


async def test_urgency_goes_to_the_scheduler_and_an_eta_comes_back(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    world.scheduler.eta = call_pb2.Eta(expected_seconds=1000, low_seconds=500, high_seconds=2000)
    batch = call_pb2.SERVICE_CLASS_BATCH
    asked = chat(incremental=True, service_class=batch, program_deadline_seconds=60, expected_output_tokens=70)
    first, *rest = [event async for event in stub.Chat(asked)]
    [submit] = world.scheduler.said("submit")
    assert (submit.service_class, submit.expected_output_tokens) == (batch, 70)
    assert 50 < submit.deadline_seconds <= 60
    assert 990 < first.eta.expected_seconds <= 1000
    assert first.eta.high_seconds - first.eta.low_seconds == pytest.approx(1500)
    assert not any(event.HasField("eta") for event in rest)


async def test_output_that_nobody_reads_along_comes_at_once(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    events = [event async for event in stub.Chat(chat())]
    assert [event.text for event in events] == [" 0 1 2 3 4"]
    assert events[0].identity.program_id
    assert world.worker.starts[0].stream_interval == 32


async def test_cancelling_aborts_the_engines_work(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    world.worker.stop_after = 2
    call = stub.Chat(chat(incremental=True))
    await anext(aiter(call))
    call.cancel()
    await world.worker.wait_for(lambda worker: worker.aborted == [1])


async def test_a_deadline_ends_the_call(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    world.scheduler.holding = True
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(stub.Chat(chat(), timeout=0.1)))
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await world.scheduler.wait_for("finish")


BAD: list[tuple[dict[str, Any], Reason, str]] = [
    ({"messages": []}, Reason.INVALID_ARGUMENT, "messages"),
    ({"messages": [gateway_pb2.Message(role="boss")]}, Reason.INVALID_ARGUMENT, "messages[0].role"),
    ({"model": "gpt-9"}, Reason.MODEL_NOT_FOUND, "model"),
    ({"priority": 5000}, Reason.INVALID_ARGUMENT, "priority"),
    ({"service_class": 7}, Reason.INVALID_ARGUMENT, "service_class"),
    ({"program_deadline_seconds": -1}, Reason.INVALID_ARGUMENT, "program_deadline_seconds"),
    ({"program_deadline_seconds": float("nan")}, Reason.INVALID_ARGUMENT, "program_deadline_seconds"),
    ({"program_deadline_seconds": 1e9}, Reason.INVALID_ARGUMENT, "program_deadline_seconds"),
    ({"sampling": call_pb2.Sampling(temperature=float("nan"))}, Reason.INVALID_ARGUMENT, "sampling.temperature"),
    ({"sampling": call_pb2.Sampling(top_p=0)}, Reason.INVALID_ARGUMENT, "sampling.top_p"),
    ({"sampling": call_pb2.Sampling(max_tokens=0)}, Reason.INVALID_ARGUMENT, "sampling.max_tokens"),
    ({"sampling": call_pb2.Sampling(stop=[""])}, Reason.INVALID_ARGUMENT, "sampling.stop"),
    ({"sampling": call_pb2.Sampling(min_tokens=5, max_tokens=4)}, Reason.INVALID_ARGUMENT, "sampling.min_tokens"),
    ({"sampling": call_pb2.Sampling(logit_bias={1: 500})}, Reason.INVALID_ARGUMENT, "sampling.logit_bias"),
    ({"chat_template_kwargs_json": "{"}, Reason.INVALID_ARGUMENT, "chat_template_kwargs_json"),
    ({"chat_template_kwargs_json": "[]"}, Reason.INVALID_ARGUMENT, "chat_template_kwargs_json"),
    ({"tools": [call_pb2.Tool(name="f", parameters_json="no")]}, Reason.INVALID_ARGUMENT, "tools[0].parameters_json"),
    ({"tools": [call_pb2.Tool()]}, Reason.INVALID_ARGUMENT, "tools[0].name"),
    (
        {"tool_choice": call_pb2.ToolChoice(mode=call_pb2.ToolChoice.MODE_NAMED, name="f")},
        Reason.INVALID_ARGUMENT,
        "tool_choice.name",
    ),
    ({"identity": call_pb2.CallIdentity(program_id="a/b")}, Reason.INVALID_ARGUMENT, "program_id"),
    (
        {"messages": [gateway_pb2.Message(role="user", content="go " * 5000)]},
        Reason.CONTEXT_LENGTH_EXCEEDED,
        "messages",
    ),
]


async def test_bad_requests_fail_with_reason_and_field(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    for fields, reason, field in BAD:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await anext(aiter(stub.Chat(chat(**fields))))
        failure = rpc.failure_from(error.value)
        assert (failure.reason, failure.field) == (reason, field), failure
    assert [event.text async for event in stub.Chat(chat())] == [" 0 1 2 3 4"]


async def test_a_refusal_says_when_to_come_back(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    world.scheduler.rejection = scheduler_pb2.Rejection(reason="QUEUE_FULL", message="full", retry_after_seconds=1.5)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(stub.Chat(chat())))
    failure = rpc.failure_from(error.value)
    assert (failure.reason, failure.retry_after_seconds) == (Reason.QUEUE_FULL, 1.5)


async def test_what_concerns_the_scheduler_is_passed_on(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    workers = await stub.ListWorkers(scheduler_pb2.ListWorkersRequest())
    programs = await stub.ListPrograms(scheduler_pb2.ListProgramsRequest())
    pools = await stub.ListPools(scheduler_pb2.ListPoolsRequest())
    role = scheduler_pb2.SetWorkerRoleRequest(worker_id="worker-0", role=kv_pb2.WORKER_ROLE_PREFILL)
    await stub.SetWorkerRole(role)
    await stub.EndProgram(gateway_pb2.EndProgramRequest(request_id="r", program_id="p"))
    assert [worker.address for worker in workers.workers] == [world.worker.address]
    assert [program.program_id for program in programs.programs] == ["p"]
    assert [pool.description.pool_id for pool in pools.pools] == ["host-a"]
    assert world.scheduler.roles == [role]
    assert [end.program_id for end in await world.scheduler.wait_for("end_program")] == ["p"]


@pytest.mark.parametrize(
    ("worker_id", "role", "field"),
    [("", kv_pb2.WORKER_ROLE_BOTH, "worker_id"), ("w", 0, "role"), ("w", 99, "role")],
)
async def test_a_role_that_is_none_is_refused(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub, worker_id: str, role: Any, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SetWorkerRole(scheduler_pb2.SetWorkerRoleRequest(worker_id=worker_id, role=role))
    failure = rpc.failure_from(error.value)
    assert (failure.reason, failure.field) == (Reason.INVALID_ARGUMENT, field)
    assert world.scheduler.roles == []


async def test_without_a_scheduler_its_questions_are_refused(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    world.scheduler.leads = False
    world.scheduler.hang_up()

    async def until_noticed() -> None:
        while True:
            await stub.EndProgram(gateway_pb2.EndProgramRequest(program_id="p"), timeout=10)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await until_noticed()
    assert rpc.failure_from(error.value).reason is Reason.NO_SCHEDULER


async def test_a_question_to_a_scheduler_that_is_left_meanwhile_is_refused(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    world.scheduler.lists.clear()
    asking = asyncio.ensure_future(stub.ListPrograms(scheduler_pb2.ListProgramsRequest(), timeout=60))
    async with asyncio.timeout(20):
        async with world.scheduler.heard:
            await world.scheduler.heard.wait_for(lambda: world.scheduler.listings)
        world.scheduler.hang_up()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asking
    assert rpc.failure_from(error.value).reason is Reason.NO_SCHEDULER


async def test_models_are_listed(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    response = await stub.ListModels(gateway_pb2.ListModelsRequest())
    assert [(model.name, model.max_model_len, model.num_workers) for model in response.models] == [("tiny", 2048, 1)]


async def test_a_tool_span_counts_once(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    async def count() -> float:
        async with world.http.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        name = 'legato_gateway_tool_seconds_count{failed="true"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = await count()
    request = gateway_pb2.ReportToolSpanRequest(
        request_id="tool-span-1",
        program_id="p",
        tool="pytest",
        started=Timestamp(seconds=1_800_000_000),
        duration=Duration(seconds=2),
        failed=True,
    )
    await stub.ReportToolSpan(request)
    await stub.ReportToolSpan(request)
    assert await count() == before + 1


@pytest.mark.parametrize("field", ["request_id", "agent", "tool", "call_id"])
async def test_names_in_a_tool_span_must_be_printable_and_short(
    stub: gateway_pb2_grpc.GatewayServiceStub, field: str
) -> None:
    for name in ("x" * 257, "a\nb"):
        request = gateway_pb2.ReportToolSpanRequest(program_id="p", **{field: name})  # pyright: ignore[reportArgumentType] (a str field)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.ReportToolSpan(request)
        assert rpc.failure_from(refusal.value).field == field


async def test_a_call_goes_on_after_its_worker_is_gone(world: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    world.worker.script = counting(10)
    world.worker.stop_after = 3
    call = stub.Chat(chat(incremental=True))
    text, last = "", gateway_pb2.ChatResponse()
    async for event in call:
        text += event.text
        if text.endswith(" 2") and world.worker.stop_after is not None:
            world.worker.stop_after = None
            await world.worker.hang_up()
        last = event
    assert text == "".join(f" {index}" for index in range(10))
    assert last.finish.timings.restarts == 1
