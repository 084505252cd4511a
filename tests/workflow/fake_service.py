"""A workflow service that says what it is told to say."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common.registry import Member, Registry
from services.common.server import grpc_server


def forecast(program_id: str, call_id: str = "", **fields: Any) -> workflow_pb2.CallForecast:
    """Of the call, or of the next one of the program's thread "t"."""
    said: dict[str, Any] = {"thread": "t", "revision": 1, "valid_seconds": 100.0, **fields}
    return workflow_pb2.CallForecast(program_id=program_id, call_id=call_id, **said)


def law(*points: float, never: float = 0.0) -> workflow_pb2.Law:
    return workflow_pb2.Law(points=points, never=never)


class FakeWorkflow(workflow_pb2_grpc.WorkflowServiceServicer):
    """Says first what is in force, then what it is told to say; None ends the stream."""

    def __init__(self, in_force: Sequence[workflow_pb2.CallForecast]) -> None:
        self.in_force = list(in_force)
        self.says: asyncio.Queue[workflow_pb2.CallForecast | None] = asyncio.Queue()
        self.num_watched = 0

    async def WatchForecasts(
        self, request: workflow_pb2.WatchForecastsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[workflow_pb2.WatchForecastsResponse]:
        self.num_watched += 1
        yield workflow_pb2.WatchForecastsResponse(forecasts=self.in_force)
        while (said := await self.says.get()) is not None:
            yield workflow_pb2.WatchForecastsResponse(forecasts=[said])

    def _unused(self, request: Any, context: Any) -> Any:
        raise AssertionError("only gateways ask")

    Explain = ReadLog = _unused


@asynccontextmanager
async def fake_workflow(
    registry: Registry, workflow_id: str, *in_force: workflow_pb2.CallForecast
) -> AsyncGenerator[FakeWorkflow]:
    """Serve and announce one. On leaving it is gone at once, as if killed."""
    workflow = FakeWorkflow(in_force)

    def add(server: grpc.aio.Server) -> tuple[str]:
        workflow_pb2_grpc.add_WorkflowServiceServicer_to_server(workflow, server)
        return (workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,)

    serving = grpc_server(add, host="127.0.0.1", port=0, drain_seconds=0)
    server = await serving.__aenter__()
    async with registry.announce(Member("workflow", workflow_id, server.address, {})):
        try:
            yield workflow
        finally:
            await serving.__aexit__(None, None, None)
