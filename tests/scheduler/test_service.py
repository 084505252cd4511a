"""The scheduler over real gRPC, with a real (embedded) registry and workers that can be killed."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from legato.v1 import call_pb2, scheduler_pb2, scheduler_pb2_grpc, worker_pb2
from services.common import rpc, state
from services.common.config import StateSection
from services.common.errors import Reason
from services.common.registry import Member, Registry
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.scheduler.config import Settings
from services.scheduler.service import Running, running
from tests.scheduler.fake_worker import MODEL, SECONDS, fake_gateway, fake_worker


async def leads(scheduler: Running) -> None:
    async with asyncio.timeout(SECONDS):
        await scheduler.leading.wait()


async def reason(address: str) -> Reason:
    """Why the scheduler there refuses to list its workers."""
    async with rpc.channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await scheduler_pb2_grpc.SchedulerServiceStub(channel).ListWorkers(
                scheduler_pb2.ListWorkersRequest(), timeout=SECONDS
            )
    return rpc.failure_from(raised.value).reason


async def programs(address: str) -> list[scheduler_pb2.ProgramStatus]:
    async with rpc.channel(address) as channel:
        request = scheduler_pb2.ListProgramsRequest(include_ended=True)
        response = await scheduler_pb2_grpc.SchedulerServiceStub(channel).ListPrograms(request, timeout=SECONDS)
    return list(response.programs)


async def test_a_call_is_placed_and_its_program_is_known(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1"), fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c1", block_hashes=[1, 2, 9], prompt_tokens=60)
        placement = await gateway.placement()
        assert (placement.worker_id, placement.attempt, placement.expected_cached_tokens) == ("w1", 1, 32)
        await gateway.finish("c1", seconds=4.0)
        await gateway.submit("c2")
        await gateway.placement()
        (program,) = await programs(scheduler.address)
        assert (program.num_finished, program.num_running, program.service_seconds) == (1, 1, 4.0)
        assert program.usage.completion_tokens == 8


async def test_what_a_call_says_of_its_program_is_listed_and_outlives_the_scheduler(
    settings: Settings, members: Registry
) -> None:
    batch = call_pb2.SERVICE_CLASS_BATCH
    async with state.connect(StateSection(), settings.cluster.name), fake_worker(members, "w1"):
        program, due = scheduler_pb2.ProgramStatus(), list[int]()
        for _ in range(2):
            async with running(settings) as scheduler:
                await leads(scheduler)
                async with fake_gateway(scheduler.address, "g") as gateway:
                    said: dict[str, Any] = {} if due else {"deadline_seconds": 1000.0}
                    await gateway.submit("c1", service_class=batch, expected_output_tokens=3, **said)
                    await gateway.placement()
                    await gateway.finish("c1")
                    [program] = await programs(scheduler.address)
            assert program.service_class == batch
            due.append(program.deadline.ToMilliseconds())
    assert due[1] == pytest.approx(due[0], abs=100)
    assert due[0] == pytest.approx(program.started.ToMilliseconds() + 1_000_000, abs=100)


async def test_classes_of_later_versions_are_as_any_other(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1"), fake_gateway(scheduler.address, "g") as gateway:
        later: Any = 17
        await gateway.submit("c1", service_class=later, deadline_seconds=float("nan"))
        await gateway.placement()
        [program] = await programs(scheduler.address)
    assert program.service_class == call_pb2.SERVICE_CLASS_DEFAULT
    assert not program.HasField("deadline")


async def test_a_killed_worker_loses_its_calls_to_another(scheduler: Running, members: Registry) -> None:
    async with AsyncExitStack() as first, fake_gateway(scheduler.address, "g") as gateway:
        await first.enter_async_context(fake_worker(members, "w1"))
        await gateway.submit("c1")
        assert (await gateway.placement()).worker_id == "w1"
        async with fake_worker(members, "w2"):
            await first.aclose()
            placement = await gateway.placement()
            assert (placement.call_id, placement.worker_id, placement.attempt) == ("c1", "w2", 2)


async def test_a_worker_whose_stream_breaks_is_new_when_it_answers_again(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1") as worker, fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c1")
        assert (await gateway.placement()).attempt == 1
        worker.says.put_nowait(None)
        placement = await gateway.placement()
        assert (placement.worker_id, placement.attempt) == ("w1", 2)


async def test_a_worker_restarted_at_the_address_of_a_dead_one_stays(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w2") as worker, fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c1")
        assert (await gateway.placement()).worker_id == "w2"
        # The key of the life before is still there for a while: its lease has not run out.
        async with members.announce(Member("worker", "w1", worker.address, {})), asyncio.timeout(SECONDS):
            while worker.num_watched < 2:
                worker.watched.clear()
                await worker.watched.wait()
        await gateway.submit("c2")
        await gateway.finish("c1")
        placement = await gateway.placement()
        assert (placement.call_id, placement.worker_id, placement.attempt) == ("c2", "w2", 1)
        async with rpc.channel(scheduler.address) as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            (listed,) = (await stub.ListWorkers(scheduler_pb2.ListWorkersRequest(), timeout=SECONDS)).workers
        assert listed.description.worker_id == "w2"


async def test_a_worker_that_drains_gets_nothing_new(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1") as worker, fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c1")
        await gateway.placement()
        worker.says.put_nowait(worker_pb2.WatchResponse(load=worker_pb2.Load(draining=True)))
        await gateway.submit("c2", queue_timeout_seconds=0.3)
        rejection = await gateway.rejection()
        assert (rejection.call_id, rejection.reason) == ("c2", "QUEUE_TIMEOUT")


async def test_a_cut_gateway_stream_frees_its_slots(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1"), fake_gateway(scheduler.address, "g2") as second:
        async with fake_gateway(scheduler.address, "g1") as first:
            await first.submit("c1", "p1")
            await first.placement()
            await second.submit("c2", "p2")
        assert (await second.placement()).call_id == "c2"


async def test_a_gateway_that_connects_again_announces_what_runs(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1"), fake_gateway(scheduler.address, "g1") as first:
        await first.submit("c1")
        await first.placement()
        async with fake_gateway(scheduler.address, "g1") as again:
            await again.submit("c1", attempt=1, worker_id="w1")
            await again.submit("c2")
            await again.finish("c1")
            placement = await again.placement()
            assert (placement.call_id, placement.attempt) == ("c2", 1)


async def test_unknown_models_and_broken_submissions_are_rejected(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1"), fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c0")
        await gateway.placement()
        await gateway.submit("c1", model="nope")
        assert (await gateway.rejection()).reason == "MODEL_NOT_FOUND"
        await gateway.submit("c2", prompt_tokens=0)
        assert (await gateway.rejection()).reason == "INVALID_ARGUMENT"
        await gateway.submit("c3", prompt_tokens=1000)
        assert (await gateway.rejection()).reason == "CONTEXT_LENGTH_EXCEEDED"


async def test_a_stream_without_hello_fails(scheduler: Running) -> None:
    async with rpc.channel(scheduler.address) as channel:
        stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Schedule()
        await stream.write(scheduler_pb2.ScheduleRequest())
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async with asyncio.timeout(SECONDS):
                await stream.read()
    assert rpc.failure_from(raised.value).reason is Reason.INVALID_ARGUMENT


async def test_workers_are_listed(scheduler: Running, members: Registry) -> None:
    async with fake_worker(members, "w1", 4), fake_gateway(scheduler.address, "g") as gateway:
        await gateway.submit("c1")
        await gateway.placement()
        async with rpc.channel(scheduler.address) as channel:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            (worker,) = (await stub.ListWorkers(scheduler_pb2.ListWorkersRequest(), timeout=SECONDS)).workers
    assert (worker.description.worker_id, worker.description.model) == ("w1", MODEL)
    assert (worker.num_placed, worker.num_cached_blocks) == (1, 3)


async def test_the_second_scheduler_takes_over_and_remembers_service(settings: Settings, members: Registry) -> None:
    async with (
        state.connect(StateSection(), settings.cluster.name),  # keeps what is in memory between the two
        fake_worker(members, "w1"),
        AsyncExitStack() as stack,
    ):
        first = await stack.enter_async_context(running(settings))
        await leads(first)
        async with running(settings) as second:
            assert await reason(second.address) is Reason.NOT_LEADER
            async with fake_gateway(first.address, "g") as gateway:
                await gateway.submit("c1")
                await gateway.placement()
                await gateway.finish("c1", seconds=7.0)
                await gateway.submit("c2")
                await gateway.placement()
                await stack.aclose()
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await gateway.next()
            assert rpc.failure_from(raised.value).reason is Reason.NOT_LEADER
            await leads(second)
            async with fake_gateway(second.address, "g") as gateway:
                await gateway.submit("c2", attempt=1, worker_id="w1")
                await gateway.finish("c2", seconds=1.0)
                await gateway.submit("c3")
                assert (await gateway.placement()).call_id == "c3"
                (program,) = await programs(second.address)
            assert (program.num_finished, program.service_seconds) == (2, 8.0)


async def depose(settings: Settings) -> None:
    """Take the lead from the scheduler that has it."""
    connection = Connection(list(settings.registry.endpoints))
    client = Client(connection)
    keys = [entry.key for entry in (await client.list(f"/legato/{settings.cluster.name}/leaders/")).entries]
    await client.delete(keys[0])
    await connection.close()


async def test_a_leader_that_lost_its_lead_lets_go_of_its_gateways(settings: Settings) -> None:
    async with running(settings) as first:
        await leads(first)
        async with running(settings) as second, fake_gateway(first.address, "g") as gateway:
            await depose(settings)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await gateway.next()
            assert rpc.failure_from(raised.value).reason is Reason.NOT_LEADER
            await leads(second)


@pytest.mark.parametrize("deposed", [False, True])
async def test_only_a_leader_that_stops_of_itself_writes_last_records(
    settings: Settings, members: Registry, deposed: bool
) -> None:
    seldom = settings.scheduler.model_copy(update={"save_seconds": 1000.0})
    settings = settings.model_copy(update={"scheduler": seldom})
    async with state.connect(StateSection(), settings.cluster.name) as store, fake_worker(members, "w1"):
        async with running(settings) as scheduler:
            await leads(scheduler)
            async with fake_gateway(scheduler.address, "g") as gateway:
                await gateway.submit("c1")
                await gateway.placement()
                await gateway.finish("c1")
                await programs(scheduler.address)  # after the events before
                if deposed:
                    await depose(settings)
                    with pytest.raises(grpc.aio.AioRpcError):
                        await gateway.next()
                    await leads(scheduler)  # again
        assert [key async for key, _ in store.items("")] == ([] if deposed else ["program/p"])
