"""A worker that only lets itself be watched, and a gateway's end of a Schedule stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from legato.v1 import call_pb2, scheduler_pb2, scheduler_pb2_grpc, worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry
from services.common.server import grpc_server

MODEL = "m"
SECONDS = 10.0
"""Bound on whatever a test waits for."""


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Says what it is, then what it is told to say; None ends the stream."""

    def __init__(self, worker_id: str, num_seqs: int) -> None:
        self.description = worker_pb2.WorkerDescription(
            worker_id=worker_id, model=MODEL, max_model_len=1000, max_num_seqs=num_seqs, block_size=16, num_blocks=100
        )
        self.address = ""
        self.num_watched = 0
        self.watched = asyncio.Event()
        """Set when a stream is asked for."""
        self.says: asyncio.Queue[worker_pb2.WatchResponse | None] = asyncio.Queue()
        self.terms: list[int] = []
        """Of those who watched."""
        self.latest_term = 0
        """That it has heard of; earlier ones are refused."""

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[worker_pb2.WatchResponse]:
        self.num_watched += 1
        self.terms.append(request.term)
        self.watched.set()
        if request.term < self.latest_term:
            raise Failure(Reason.STALE_TERM, "stale", metadata={"term": str(self.latest_term)})
        cache = worker_pb2.CacheUpdate(reset=True, stored=[1, 2, 3])
        yield worker_pb2.WatchResponse(description=self.description, load=worker_pb2.Load(), cache=cache)
        while (response := await self.says.get()) is not None:
            yield response

    async def SetRole(
        self, request: worker_pb2.SetRoleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.SetRoleResponse:
        self.description.role = request.role
        self.says.put_nowait(worker_pb2.WatchResponse(description=self.description))
        return worker_pb2.SetRoleResponse()

    async def Describe(
        self, request: worker_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.DescribeResponse:
        return worker_pb2.DescribeResponse(description=self.description)

    def Generate(
        self,
        request_iterator: AsyncIterator[worker_pb2.GenerateRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[worker_pb2.GenerateResponse]:
        raise NotImplementedError


@asynccontextmanager
async def fake_worker(
    registry: Registry, worker_id: str, num_seqs: int = 1, **description: Any
) -> AsyncGenerator[FakeWorker]:
    """Serve and announce a worker. On leaving it is gone at once, as if killed; its registry key goes after it."""
    worker = FakeWorker(worker_id, num_seqs)
    worker.description.MergeFrom(worker_pb2.WorkerDescription(**description))

    def add(server: grpc.aio.Server) -> tuple[str]:
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
        return (worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,)

    serving = grpc_server(add, host="127.0.0.1", port=0, drain_seconds=0)
    server = await serving.__aenter__()
    worker.address = server.address
    async with registry.announce(Member("worker", worker_id, server.address, {"model": MODEL, "engine": "fake"})):
        try:
            yield worker
        finally:
            await serving.__aexit__(None, None, None)


class FakeGateway:
    """Sends events; receives decisions one at a time."""

    def __init__(self, stream: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
        self._stream = stream
        self._received: list[scheduler_pb2.SchedulerEvent] = []

    async def send(self, *events: scheduler_pb2.GatewayEvent) -> None:
        await self._stream.write(scheduler_pb2.ScheduleRequest(events=events))

    async def submit(
        self, call_id: str, program_id: str = "p", *, model: str = MODEL, prompt_tokens: int = 16, **fields: Any
    ) -> None:
        identity = call_pb2.CallIdentity(program_id=program_id, call_id=call_id)
        submit = scheduler_pb2.SubmitCall(
            identity=identity, model=model, prompt_tokens=prompt_tokens, max_tokens=16, **fields
        )
        await self.send(scheduler_pb2.GatewayEvent(submit=submit))

    async def finish(self, call_id: str, program_id: str = "p", seconds: float = 1.0) -> None:
        finish = scheduler_pb2.FinishCall(
            program_id=program_id,
            call_id=call_id,
            reason=call_pb2.FINISH_REASON_STOP,
            usage=call_pb2.Usage(prompt_tokens=16, completion_tokens=8),
            timings=call_pb2.Timings(prefill_seconds=seconds / 4, decode_seconds=3 * seconds / 4),
        )
        await self.send(scheduler_pb2.GatewayEvent(finish=finish))

    async def hand_off(self, call_id: str, attempt: int, program_id: str = "p") -> None:
        hand_off = scheduler_pb2.HandOffCall(
            program_id=program_id, call_id=call_id, attempt=attempt, generated_tokens=1
        )
        await self.send(scheduler_pb2.GatewayEvent(hand_off=hand_off))

    async def end_program(self, program_id: str = "p") -> None:
        await self.send(scheduler_pb2.GatewayEvent(end_program=scheduler_pb2.EndProgram(program_id=program_id)))

    async def placement(self) -> scheduler_pb2.Placement:
        """The next decision, which must be a placement."""
        event = await self.next()
        assert event.HasField("placement"), event
        return event.placement

    async def rejection(self) -> scheduler_pb2.Rejection:
        """The next decision, which must be a rejection."""
        event = await self.next()
        assert event.HasField("rejection"), event
        return event.rejection

    async def greeting(self) -> int:
        """The term that the scheduler leads, which it says at once. AioRpcError when the stream failed."""
        async with asyncio.timeout(SECONDS):
            response = await self._stream.read()
        assert isinstance(response, scheduler_pb2.ScheduleResponse), "the stream ended"
        assert not response.events
        return response.term

    async def next(self) -> scheduler_pb2.SchedulerEvent:
        """The next decision. AioRpcError when the stream failed."""
        async with asyncio.timeout(SECONDS):
            while not self._received:
                response = await self._stream.read()
                assert isinstance(response, scheduler_pb2.ScheduleResponse), "the stream ended"
                self._received.extend(response.events)
        return self._received.pop(0)


@asynccontextmanager
async def fake_gateway(address: str, gateway_id: str, term: int = 0) -> AsyncGenerator[FakeGateway]:
    """A stream to the scheduler there, from one that has heard of that term; leaving cuts it."""
    async with rpc.channel(address) as channel:
        stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Schedule()
        gateway = FakeGateway(stream)
        hello = scheduler_pb2.Hello(gateway_id=gateway_id, term=term)
        await gateway.send(scheduler_pb2.GatewayEvent(hello=hello))
        try:
            yield gateway
        finally:
            stream.cancel()
