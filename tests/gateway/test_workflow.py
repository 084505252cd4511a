"""What the gateway passes on to the workflow service."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import pytest

from legato.v1 import call_pb2, gateway_pb2_grpc, workflow_pb2, workflow_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry
from tests.gateway.conftest import World

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class FakeWorkflow(workflow_pb2_grpc.WorkflowServiceServicer):
    """Knows one program; or fails, as it is told."""

    def __init__(self, *, ended: float = 0.0, failure: Failure | None = None) -> None:
        self.ended = ended
        self.failure = failure
        self.asked: list[str] = []
        self.reading = asyncio.Event()
        self.left = asyncio.Event()

    async def Explain(self, request: workflow_pb2.ExplainRequest, context: Context) -> workflow_pb2.ExplainResponse:
        self.asked.append(request.program_id)
        if self.failure is not None:
            await rpc.abort(context, self.failure)
        return workflow_pb2.ExplainResponse(program_id="p", tenant="acme", ended=self.ended)

    async def WatchForecasts(
        self, request: workflow_pb2.WatchForecastsRequest, context: Context
    ) -> AsyncGenerator[workflow_pb2.WatchForecastsResponse]:
        raise AssertionError("only schedulers and pools watch")
        yield

    async def ReadLog(
        self, request: workflow_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[workflow_pb2.ReadLogResponse]:
        if self.failure is not None:
            await rpc.abort(context, self.failure)
        over = workflow_pb2.ProgramOver(program_id=request.program_id)
        yield workflow_pb2.ReadLogResponse(entries=[workflow_pb2.LogEntry(at=1.0, over=over)])
        if request.follow:
            self.reading.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()


@asynccontextmanager
async def serving(workflow: FakeWorkflow, registry: Registry, name: str) -> AsyncGenerator[None]:
    server = grpc.aio.server()
    workflow_pb2_grpc.add_WorkflowServiceServicer_to_server(workflow, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with registry.announce(Member("workflow", name, address, {})):
            yield
    finally:
        await server.stop(None)


@pytest.fixture
async def stub(world: World) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    async with rpc.channel(world.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


async def explained(stub: gateway_pb2_grpc.GatewayServiceStub) -> workflow_pb2.ExplainResponse:
    return await stub.Explain(workflow_pb2.ExplainRequest(program_id="p"))


async def test_without_a_workflow_service_there_is_nobody_to_ask(stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as explaining:
        await stub.Explain(workflow_pb2.ExplainRequest(program_id="p"))
    with pytest.raises(grpc.aio.AioRpcError) as reading:
        await stub.ReadLog(workflow_pb2.ReadLogRequest()).read()
    for error in (explaining.value, reading.value):
        assert (error.code(), rpc.failure_from(error).reason) == (grpc.StatusCode.UNAVAILABLE, Reason.NO_WORKFLOW)


async def test_an_explanation_of_a_live_program_gets_the_schedulers_eta(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    eta = call_pb2.Eta(expected_seconds=10, low_seconds=5, high_seconds=20)
    world.scheduler.listed_eta = eta
    workflow = FakeWorkflow()
    async with serving(workflow, world.registry, "one"):
        assert (await explained(stub)).eta == eta
        workflow.ended = 7.0
        assert not (await explained(stub)).HasField("eta")
    assert set(workflow.asked) == {"p"}


async def test_another_instance_is_asked_when_one_is_about_to_stop(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    ending = FakeWorkflow(failure=Failure(Reason.DRAINING, "about to stop"))
    async with serving(ending, world.registry, "a"), serving(FakeWorkflow(), world.registry, "b"):
        assert (await explained(stub)).tenant == "acme"


async def test_a_program_that_is_not_known_is_not_found(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    ignorant = FakeWorkflow(failure=Failure(Reason.PROGRAM_NOT_FOUND, "nothing is known of it"))
    async with serving(ignorant, world.registry, "one"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explained(stub)
    assert rpc.failure_from(caught.value).reason is Reason.PROGRAM_NOT_FOUND


async def test_the_log_is_passed_on_until_its_reader_leaves(
    world: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    workflow = FakeWorkflow()
    async with serving(workflow, world.registry, "one"):
        await explained(stub)
        [response] = [r async for r in stub.ReadLog(workflow_pb2.ReadLogRequest(program_id="q"))]
        assert [entry.over.program_id for entry in response.entries] == ["q"]
        following = stub.ReadLog(workflow_pb2.ReadLogRequest(follow=True))
        async with asyncio.timeout(10):
            await following.read()
            await workflow.reading.wait()
            following.cancel()
            await workflow.left.wait()
