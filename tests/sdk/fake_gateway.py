"""A gateway that answers as it is told, over real gRPC, and remembers what it was asked."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, TypeAlias

import grpc

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, kv_pb2, kvpool_pb2, scheduler_pb2, workflow_pb2
from services.common import rpc
from services.common.errors import Failure, Reason

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Pause(Enum):
    """Steps of an answer that send nothing."""

    FOREVER = "until the client goes away"


Step: TypeAlias = str | gateway_pb2.ChatResponse | Failure | Pause | asyncio.Event
"""Text to send, a whole event, how to fail, or what to wait for."""


def finish(reason: call_pb2.FinishReason.ValueType = call_pb2.FINISH_REASON_STOP) -> gateway_pb2.ChatResponse:
    """The last event of a call."""
    usage = call_pb2.Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4, reasoning_tokens=1)
    timings = call_pb2.Timings(queue_seconds=0.5, prefill_seconds=0.25, decode_seconds=2.0, restarts=1)
    done = gateway_pb2.ChatFinish(reason=reason, usage=usage, timings=timings, worker_id="worker-1", model="tiny")
    return gateway_pb2.ChatResponse(finish=done)


def pool() -> kvpool_pb2.PoolStatus:
    """A pool of two tiers that has worked."""
    tier = kvpool_pb2.TierStatus
    status = kvpool_pb2.PoolStatus(
        description=kvpool_pb2.PoolDescription(pool_id="host-a"),
        tiers=[
            tier(
                tier=kv_pb2.KV_TIER_DRAM, used_bytes=3 << 29, capacity_bytes=2 << 30, num_blocks=1500,
                num_hit_blocks=600, read_bytes=9 << 30, written_bytes=4 << 30,
                read_bytes_per_second=250e6, written_bytes_per_second=1e6,
            ),
            tier(tier=kv_pb2.KV_TIER_SSD, used_bytes=512, capacity_bytes=8 << 40, num_hit_blocks=150),
        ],
        num_requested_blocks=1000, num_missed_blocks=250, num_pulled_blocks=7, num_corrupt_blocks=1,
        evictions={"superseded": 20, "density": 300},
        top_programs=[kvpool_pb2.ProgramBytes(program_id="fix-issue-42", num_bytes=1 << 30)],
        speeds=kvpool_pb2.PoolSpeeds(load=5e9, ssd_read=1e9),
        num_leases=3, num_reservations=2, retention="density",
    )  # fmt: skip
    status.tiers.add(tier=99)  # pyright: ignore[reportArgumentType]  # of a newer cluster
    return status


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Calls take the next of `answers`; when there is none they echo the last message."""

    def __init__(self) -> None:
        self.answers: deque[Sequence[Step]] = deque()
        self.calls: list[gateway_pb2.ChatRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.cancelled = asyncio.Event()
        """A call's client went away."""
        self.spans: list[gateway_pb2.ReportToolSpanRequest] = []
        self.ended: list[str] = []
        self.refusal: Failure | None = None
        """What everything except calls fails with."""
        self.refused = asyncio.Semaphore(0)
        """Counts that."""
        self.listed: list[scheduler_pb2.ListProgramsRequest] = []
        self.pools = [pool()]
        self.programs: list[scheduler_pb2.ProgramStatus] = []
        """Beside one that has ended."""
        self.roles: list[scheduler_pb2.SetWorkerRoleRequest] = []
        self.explanations: dict[str, workflow_pb2.ExplainResponse] = {}
        self.log: list[workflow_pb2.LogEntry] = []
        self.read: list[workflow_pb2.ReadLogRequest] = []

    async def Chat(self, request: gateway_pb2.ChatRequest, context: Context) -> AsyncIterator[gateway_pb2.ChatResponse]:
        self.calls.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        echo = (f"echo: {request.messages[-1].content}", finish())
        try:
            for step in self.answers.popleft() if self.answers else echo:
                match step:
                    case str():
                        yield gateway_pb2.ChatResponse(text=step, num_tokens=1)
                    case gateway_pb2.ChatResponse():
                        yield step
                    case Failure():
                        await rpc.abort(context, step)
                    case asyncio.Event():
                        await step.wait()
                    case Pause.FOREVER:
                        await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def ReportToolSpan(
        self, request: gateway_pb2.ReportToolSpanRequest, context: Context
    ) -> gateway_pb2.ReportToolSpanResponse:
        await self._refuse(context)
        self.spans.append(request)
        return gateway_pb2.ReportToolSpanResponse()

    async def EndProgram(
        self, request: gateway_pb2.EndProgramRequest, context: Context
    ) -> gateway_pb2.EndProgramResponse:
        await self._refuse(context)
        self.ended.append(request.program_id)
        return gateway_pb2.EndProgramResponse()

    async def ListModels(
        self, request: gateway_pb2.ListModelsRequest, context: Context
    ) -> gateway_pb2.ListModelsResponse:
        await self._refuse(context)
        model = gateway_pb2.Model(name="tiny", max_model_len=4096, num_workers=2)
        return gateway_pb2.ListModelsResponse(models=[model])

    async def ListWorkers(
        self, request: scheduler_pb2.ListWorkersRequest, context: Context
    ) -> scheduler_pb2.ListWorkersResponse:
        await self._refuse(context)
        worker = scheduler_pb2.WorkerStatus(address="127.0.0.1:9", num_placed=12)
        worker.description.worker_id, worker.description.model, worker.description.engine = "worker-1", "tiny", "vllm"
        worker.description.role, worker.description.pool_id = kv_pb2.WORKER_ROLE_DECODE, "host-a"
        worker.load.num_running, worker.load.kv_usage = 8, 0.5
        worker.load.prompt_tokens, worker.load.cached_tokens = 100, 25
        return scheduler_pb2.ListWorkersResponse(workers=[worker])

    async def ListPrograms(
        self, request: scheduler_pb2.ListProgramsRequest, context: Context
    ) -> scheduler_pb2.ListProgramsResponse:
        await self._refuse(context)
        self.listed.append(request)
        program = scheduler_pb2.ProgramStatus(program_id="fix-issue-42", num_finished=3, service_seconds=1.5)
        program.started.seconds, program.ended.seconds = 1_700_000_000, 1_700_000_010
        program.service_class = call_pb2.SERVICE_CLASS_BATCH
        program.deadline.seconds = 1_700_000_060
        return scheduler_pb2.ListProgramsResponse(programs=[program, *self.programs])

    async def ListPools(
        self, request: scheduler_pb2.ListPoolsRequest, context: Context
    ) -> scheduler_pb2.ListPoolsResponse:
        await self._refuse(context)
        return scheduler_pb2.ListPoolsResponse(pools=self.pools)

    async def SetWorkerRole(
        self, request: scheduler_pb2.SetWorkerRoleRequest, context: Context
    ) -> scheduler_pb2.SetWorkerRoleResponse:
        await self._refuse(context)
        self.roles.append(request)
        return scheduler_pb2.SetWorkerRoleResponse()

    async def Explain(self, request: workflow_pb2.ExplainRequest, context: Context) -> workflow_pb2.ExplainResponse:
        await self._refuse(context)
        if request.program_id not in self.explanations:
            await rpc.abort(context, Failure(Reason.PROGRAM_NOT_FOUND, "nothing is known of it"))
        return self.explanations[request.program_id]

    async def ReadLog(
        self, request: workflow_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[workflow_pb2.ReadLogResponse]:
        await self._refuse(context)
        self.read.append(request)
        for entry in self.log:
            yield workflow_pb2.ReadLogResponse(entries=[entry])
        if request.follow:
            await asyncio.Event().wait()

    async def _refuse(self, context: Context) -> None:
        if self.refusal is not None:
            self.refused.release()
            await rpc.abort(context, self.refusal)


@asynccontextmanager
async def serving(gateway: gateway_pb2_grpc.GatewayServiceServicer) -> AsyncGenerator[str]:
    """The gateway on a port of its own; yields host:port."""
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
