"""The gRPC door: GatewayService, which the SDK calls."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from opentelemetry.trace import SpanKind, StatusCode

from legato.v1 import gateway_pb2, gateway_pb2_grpc, kv_pb2, scheduler_pb2, workflow_pb2
from services.common import telemetry
from services.common.errors import Failure, Reason
from services.gateway import access, log_entries, metrics
from services.gateway import identity as identities
from services.gateway.asked import answer
from services.gateway.calls import Calls
from services.gateway.neighbours import Log
from services.gateway.schedule import Scheduler
from services.gateway.stall import Stall, every
from services.gateway.wire import introduce, request_of, response_of
from services.gateway.workflow import Workflow

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SERVICE_NAME = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name

_ROLES = (kv_pb2.WORKER_ROLE_BOTH, kv_pb2.WORKER_ROLE_PREFILL, kv_pb2.WORKER_ROLE_DECODE)
_REMEMBERED_REQUESTS = 16_384
_SCHEDULER_SECONDS = 5.0
_LOOKED_THROUGH = 1000
"""Programs, for the one whose ETA is wanted."""
_LONGEST_TOOL_SECONDS = 30 * 24 * 3600.0


class GrpcDoor(gateway_pb2_grpc.GatewayServiceServicer):
    """The methods. Failures that they raise become rich statuses in the server."""

    def __init__(self, calls: Calls, scheduler: Scheduler, log: Log, workflow: Workflow) -> None:
        self._calls = calls
        self._scheduler = scheduler
        self._workflow = workflow
        self._log = log
        self._reported: OrderedDict[str, None] = OrderedDict()

    async def Chat(self, request: gateway_pb2.ChatRequest, context: Context) -> AsyncIterator[gateway_pb2.ChatResponse]:
        try:
            identity = access.owned(identities.from_message(request.identity))
            size_bytes = request.ByteSize()
            default = self._calls.section.default_max_tokens
            asked = await self._calls.offload(size_bytes, request_of, request, default)
            async with self._calls.open(identity, [asked], size_bytes=size_bytes) as run:
                stall = Stall(_cancelling())
                introduced = False
                with every(self._calls.section.stalled_reader_seconds, stall.check):
                    while not run.over:
                        if item := await run.next():
                            response = response_of(item[1], run.model)
                            if not introduced:
                                introduce(response, identity, run)
                            introduced = True
                            with stall.writing():
                                yield response
        except Failure as failure:
            metrics.ERRORS.labels("grpc", failure.reason.name.lower()).inc()
            raise

    async def ReportToolSpan(
        self, request: gateway_pb2.ReportToolSpanRequest, context: Context
    ) -> gateway_pb2.ReportToolSpanResponse:
        identities.checked_program_id(request.program_id)
        for field in ("request_id", "agent", "tool", "call_id"):
            identities.check_label(getattr(request, field), field)
        seconds = request.duration.ToNanoseconds() / 1e9
        if not 0 <= seconds <= _LONGEST_TOOL_SECONDS:
            raise Failure(Reason.INVALID_ARGUMENT, f"duration: no tool runs for {seconds} s", "duration")
        if self._is_new(request.request_id):
            metrics.TOOL.labels("true" if request.failed else "false").observe(seconds)
            _trace_tool(request)
            self._log.put(log_entries.tool_ran(request))
        return gateway_pb2.ReportToolSpanResponse()

    async def EndProgram(
        self, request: gateway_pb2.EndProgramRequest, context: Context
    ) -> gateway_pb2.EndProgramResponse:
        self._calls.end_program(identities.checked_program_id(request.program_id))
        return gateway_pb2.EndProgramResponse()

    async def ListModels(
        self, request: gateway_pb2.ListModelsRequest, context: Context
    ) -> gateway_pb2.ListModelsResponse:
        return gateway_pb2.ListModelsResponse(models=self._calls.models.listed())

    async def ListWorkers(
        self, request: scheduler_pb2.ListWorkersRequest, context: Context
    ) -> scheduler_pb2.ListWorkersResponse:
        return await answer(self._scheduler.stub.ListWorkers(request, timeout=_SCHEDULER_SECONDS))

    async def ListPrograms(
        self, request: scheduler_pb2.ListProgramsRequest, context: Context
    ) -> scheduler_pb2.ListProgramsResponse:
        request.tenant = access.tenant_of(request.tenant)
        return await answer(self._scheduler.stub.ListPrograms(request, timeout=_SCHEDULER_SECONDS))

    async def ListPools(
        self, request: scheduler_pb2.ListPoolsRequest, context: Context
    ) -> scheduler_pb2.ListPoolsResponse:
        return await answer(self._scheduler.stub.ListPools(request, timeout=_SCHEDULER_SECONDS))

    async def SetWorkerRole(
        self, request: scheduler_pb2.SetWorkerRoleRequest, context: Context
    ) -> scheduler_pb2.SetWorkerRoleResponse:
        if not request.worker_id:
            raise Failure(Reason.INVALID_ARGUMENT, "worker_id: must be given", "worker_id")
        if request.role not in _ROLES:
            raise Failure(Reason.INVALID_ARGUMENT, f"role: must be both, prefill or decode, not {request.role}", "role")
        return await answer(self._scheduler.stub.SetWorkerRole(request, timeout=_SCHEDULER_SECONDS))

    async def Explain(self, request: workflow_pb2.ExplainRequest, context: Context) -> workflow_pb2.ExplainResponse:
        response = await self._workflow.explain(request)
        if not access.may_see(response.tenant):
            raise Failure(Reason.PROGRAM_NOT_FOUND, f"nothing is known of program {request.program_id!r}, or no longer")
        if not response.ended:
            await self._add_eta(response)
        return response

    async def ReadLog(
        self, request: workflow_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[workflow_pb2.ReadLogResponse]:
        async with aclosing(self._workflow.read_log(request)) as responses:
            async for response in responses:
                yield response

    async def _add_eta(self, response: workflow_pb2.ExplainResponse) -> None:
        """Of a live program, if the scheduler knows it."""
        listing = scheduler_pb2.ListProgramsRequest(tenant=response.tenant, limit=_LOOKED_THROUGH)
        try:
            listed = await answer(self._scheduler.stub.ListPrograms(listing, timeout=_SCHEDULER_SECONDS))
        except Failure:
            return  # the rest is worth having without it
        for program in listed.programs:
            if program.program_id == response.program_id and program.HasField("eta"):
                response.eta.CopyFrom(program.eta)

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Serve there; returns the full names."""
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, server)
        return [SERVICE_NAME]

    def _is_new(self, request_id: str) -> bool:
        """Whether the request was not seen before, as far back as is remembered."""
        if not request_id:
            return True
        if request_id in self._reported:
            return False
        self._reported[request_id] = None
        if len(self._reported) > _REMEMBERED_REQUESTS:
            self._reported.popitem(last=False)
        return True


def _cancelling() -> Callable[[], object]:
    """Cancels the RPC that runs now, as its client could."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


def _trace_tool(request: gateway_pb2.ReportToolSpanRequest) -> None:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": request.tool,
        "gen_ai.conversation.id": request.program_id,
        "gen_ai.agent.name": request.agent,
        "legato.call_id": request.call_id,
    }
    began = request.started.ToNanoseconds()
    span = telemetry.tracer().start_span(
        f"execute_tool {request.tool}",
        kind=SpanKind.INTERNAL,
        attributes={key: value for key, value in attributes.items() if value},
        start_time=began,
    )
    if request.failed:
        span.set_status(StatusCode.ERROR)
    span.end(began + request.duration.ToNanoseconds())
