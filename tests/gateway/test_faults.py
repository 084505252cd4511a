"""What goes wrong between the gateway and its neighbours stays where it happened."""

import asyncio
import socket
from typing import Any

import aiohttp
import grpc
import pytest

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, scheduler_pb2, worker_pb2, workflow_pb2
from services.common import rpc
from services.common.clock import VirtualClock
from services.common.config import ClusterSection
from services.common.errors import Reason
from services.common.state.embedded import EmbeddedStore
from services.gateway.call import Call, Prepared
from services.gateway.call_log import CallLog
from services.gateway.piece import Pending
from services.gateway.schedule import Scheduler
from services.gateway.service import Running, running
from services.gateway.workers import Workers
from tests.gateway.conftest import Make, World, ready
from tests.gateway.fakes import FakeScheduler, Words, counting, ending, serving, text_output

CHAT = "/v1/chat/completions"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}


def grpc_chat(**fields: Any) -> gateway_pb2.ChatRequest:
    return gateway_pb2.ChatRequest(messages=[gateway_pb2.Message(role="user", content="hello")], **fields)


class _Asking(Call):
    """Has another call submitted in the loop pass in which it is announced."""

    def __init__(self, call_id: str, scheduler: Scheduler, workers: Workers, *others: Call) -> None:
        identity = call_pb2.CallIdentity(program_id="p", call_id=call_id)
        submit = scheduler_pb2.SubmitCall(identity=identity, model="tiny")
        began = workflow_pb2.LogEntry(began=workflow_pb2.CallBegan(identity=identity))
        prepared = Prepared(worker_pb2.StartCall(identity=identity), submit, began, incremental=False)
        log = CallLog(EmbeddedStore(VirtualClock()), 1, 1)
        times: dict[str, Any] = {"began": 0.0, "now": lambda: 0.0, "wake": lambda: None}
        super().__init__(prepared, scheduler, workers, log, max_restarts=0, **times)
        self._others = others
        self._submit_to = scheduler

    def announcement(self) -> scheduler_pb2.SubmitCall:
        for other in self._others:
            asyncio.get_running_loop().call_soon(self._submit_to.submit, other)
        return super().announcement()


async def test_a_call_that_comes_while_the_others_are_announced_is_submitted(world: World) -> None:
    fake = FakeScheduler()
    fake.holding = True
    async with serving(fake, world.registry, "scheduler-2") as address, asyncio.TaskGroup() as tasks:
        scheduler = Scheduler("gateway-2", 60.0)
        workers = Workers(tasks, scheduler.outgrow)
        second = _Asking("second", scheduler, workers)
        scheduler.submit(_Asking("first", scheduler, workers, second))
        conversation = tasks.create_task(scheduler.converse(address))
        submits = await fake.wait_for("submit", 2)
        assert [submit.identity.call_id for submit in submits] == ["first", "second"]
        conversation.cancel()
        await asyncio.wait([conversation])
        scheduler.close()


async def test_a_placement_of_an_unknown_call_is_given_back(world: World) -> None:
    placement = scheduler_pb2.Placement(program_id="p", call_id="ghost", attempt=3, worker_id="worker-0")
    world.scheduler.say(scheduler_pb2.SchedulerEvent(placement=placement))
    [finish] = await world.scheduler.wait_for("finish")
    assert (finish.program_id, finish.call_id, finish.attempt) == ("p", "ghost", 3)
    assert finish.reason == call_pb2.FINISH_REASON_ABORT


async def test_a_failed_call_that_nobody_reads_along_shows_nothing_of_its_output(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        finish = worker_pb2.Finish(reason=call_pb2.FINISH_REASON_ERROR, error_reason="INTERNAL")
        return [text_output(0, "half"), worker_pb2.CallOutput(offset=1, finish=finish)]

    world.worker.script = script
    async with rpc.channel(world.gateway.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await anext(aiter(stub.Chat(grpc_chat())))
        assert rpc.failure_from(error.value).reason is Reason.INTERNAL


SEEDED: list[tuple[dict[str, Any], bool]] = [
    ({"stream": True, "guided_regex": ".*"}, True),
    ({"stream": True, "frequency_penalty": 0.5}, True),
    ({"stream": True}, False),
    ({"guided_regex": ".*"}, False),
    ({"stream": True, "guided_regex": ".*", "temperature": 0}, False),
]


@pytest.mark.parametrize(("fields", "seeded"), SEEDED)
async def test_what_may_have_to_be_repeated_has_a_seed(world: World, fields: dict[str, Any], seeded: bool) -> None:
    async with world.http.post(CHAT, json=chat(**fields)) as response:
        await response.read()
    assert world.worker.starts[0].sampling.HasField("seed") is seeded


async def test_a_callers_seed_is_kept(world: World) -> None:
    async with world.http.post(CHAT, json=chat(stream=True, guided_regex=".*", seed=7)) as response:
        await response.read()
    assert world.worker.starts[0].sampling.seed == 7


async def test_an_output_that_cannot_be_handled_costs_its_call_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pending: Pending, output: worker_pb2.CallOutput) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Pending, "add", broken)
        status, answer, _ = await world.post(CHAT, chat())
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert (await world.post(CHAT, chat()))[0] == 200


async def test_a_finish_reason_of_a_newer_worker_ends_the_call(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        finish = ending(start, 1)
        finish.reason = 99  # pyright: ignore[reportAttributeAccessIssue]  # that is the point
        return [text_output(0, "a"), worker_pb2.CallOutput(offset=1, finish=finish)]

    world.worker.script = script
    status, answer, _ = await world.post(CHAT, chat())
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "a")


async def test_a_grpc_client_that_takes_nothing_is_given_up(make_world: Make) -> None:
    def endless(start: worker_pb2.StartCall) -> Words:
        return [text_output(index, "x" * 4096) for index in range(4000)]

    async with make_world(stalled_reader_seconds=0.2) as world, rpc.channel(world.gateway.address) as channel:
        world.worker.script = endless
        call = gateway_pb2_grpc.GatewayServiceStub(channel).Chat(grpc_chat(incremental=True))
        await world.worker.wait_for(lambda worker: worker.aborted == [1])
        call.cancel()


async def test_both_doors_drain_at_once(world: World) -> None:
    settings = world.settings.model_copy(update={"cluster": ClusterSection(drain_seconds=20.0)})
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def serve() -> None:
        async with running(settings) as gateway:
            started.set_result(gateway)
            await leave.wait()

    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        gateway = await started
        async with (
            aiohttp.ClientSession(f"http://{gateway.http_address}") as http,
            rpc.channel(gateway.address) as channel,
        ):
            await ready(http)
            world.worker.script, world.worker.stop_after = counting(5), 2
            async with http.post(CHAT, json=chat(stream=True)) as response:
                leave.set()
                stub = gateway_pb2_grpc.GatewayServiceStub(channel)

                async def until_refused() -> None:
                    while True:
                        await stub.ListModels(gateway_pb2.ListModelsRequest(), timeout=5)

                with pytest.raises(grpc.aio.AioRpcError):  # while the HTTP door still waits for its stream
                    await until_refused()
                world.worker.resume.set()
                assert " 4" in (await response.read()).decode()


async def test_connections_that_come_while_the_loop_is_busy_wait_to_be_accepted(world: World) -> None:
    """One that found no room would be tried again by its own kernel alone: seconds later, then minutes."""
    host, _, port = world.gateway.http_address.rpartition(":")
    question = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
    connections: list[socket.socket] = []
    try:
        for _ in range(300):  # on the loop's own thread, so that nothing is accepted meanwhile
            connections.append(socket.create_connection((host, int(port)), timeout=5))
            connections[-1].sendall(question)
        answers = await asyncio.gather(*(asyncio.to_thread(connection.recv, 12) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    assert answers == [b"HTTP/1.1 200"] * 300
