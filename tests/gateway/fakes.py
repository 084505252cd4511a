"""The services around the gateway, faked at their wire: a scheduler that places at once, workers that say what a test
wants. Both speak real gRPC and are announced in a real (embedded) registry."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from legato.v1 import (
    call_pb2,
    kv_pb2,
    kvpool_pb2,
    scheduler_pb2,
    scheduler_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
    workflow_pb2,
)
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Words: TypeAlias = list[worker_pb2.CallOutput]
"""The outputs of one call, in order."""

CONTEXT_TOKENS = 2048


class FakeScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Places each call on the next of `workers`, with the next of `plans`, or keeps it while `holding`."""

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.events: list[scheduler_pb2.GatewayEvent] = []
        self.heard = asyncio.Condition()
        self.holding = False
        self.plans: deque[kv_pb2.KVPlan] = deque()
        self.roles: list[scheduler_pb2.SetWorkerRoleRequest] = []
        self.rejection: scheduler_pb2.Rejection | None = None
        self.eta: call_pb2.Eta | None = None
        self.speeds = (0.0, 0.0)
        self.cache: workflow_pb2.CacheNote | None = None
        self.listed_eta: call_pb2.Eta | None = None
        self.listings: list[scheduler_pb2.ListProgramsRequest] = []
        self.live = ["p"]
        """Programs that it lists."""
        self.pages = True
        """Whether it knows of pages."""
        self.lists = asyncio.Event()
        self.lists.set()
        self.leads = True
        self.term = 0
        """In which it leads; 0: it does not say."""
        self._turn = 0
        self._attempts: dict[tuple[str, str], int] = {}
        self._outboxes: list[asyncio.Queue[scheduler_pb2.ScheduleResponse | None]] = []

    async def Schedule(
        self, request_iterator: AsyncIterator[scheduler_pb2.ScheduleRequest], context: Context
    ) -> AsyncIterator[scheduler_pb2.ScheduleResponse]:
        if not self.leads:
            await rpc.abort(context, Failure(Reason.NOT_LEADER, "another scheduler leads"))
        outbox: asyncio.Queue[scheduler_pb2.ScheduleResponse | None] = asyncio.Queue()
        self._outboxes.append(outbox)
        outbox.put_nowait(scheduler_pb2.ScheduleResponse(term=self.term))
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(request_iterator, outbox))
            try:
                while (response := await outbox.get()) is not None:
                    yield response
            finally:
                reader.cancel()

    async def Attend(
        self, request: scheduler_pb2.AttendRequest, context: Context
    ) -> AsyncGenerator[scheduler_pb2.AttendResponse]:
        raise AssertionError("only schedulers attend")
        yield

    async def ListWorkers(
        self, request: scheduler_pb2.ListWorkersRequest, context: Context
    ) -> scheduler_pb2.ListWorkersResponse:
        return scheduler_pb2.ListWorkersResponse(
            workers=[scheduler_pb2.WorkerStatus(address=worker.address) for worker in self.workers]
        )

    async def ListPrograms(
        self, request: scheduler_pb2.ListProgramsRequest, context: Context
    ) -> scheduler_pb2.ListProgramsResponse:
        async with self.heard:
            self.listings.append(request)
            self.heard.notify_all()
        await self.lists.wait()
        said, _, place = (request.page_token if self.pages else "").partition(" ")
        if said not in ("", str(self.term)):
            await rpc.abort(context, Failure(Reason.INVALID_ARGUMENT, f"page_token: of term {said}", "page_token"))
        start = int(place or 0)
        end = start + (request.limit or 100)
        programs = [
            scheduler_pb2.ProgramStatus(program_id=program_id, eta=self.listed_eta)
            for program_id in self.live[start:end]
        ]
        token = f"{self.term} {end}" if self.pages and end < len(self.live) else ""
        return scheduler_pb2.ListProgramsResponse(programs=programs, next_page_token=token)

    async def ListPools(
        self, request: scheduler_pb2.ListPoolsRequest, context: Context
    ) -> scheduler_pb2.ListPoolsResponse:
        description = kvpool_pb2.PoolDescription(pool_id="host-a")
        return scheduler_pb2.ListPoolsResponse(pools=[kvpool_pb2.PoolStatus(description=description)])

    async def SetWorkerRole(
        self, request: scheduler_pb2.SetWorkerRoleRequest, context: Context
    ) -> scheduler_pb2.SetWorkerRoleResponse:
        self.roles.append(request)
        return scheduler_pb2.SetWorkerRoleResponse()

    async def wait_for(self, kind: str, count: int = 1) -> list[Any]:
        """The events of that kind, once there are as many."""
        async with asyncio.timeout(10), self.heard:
            await self.heard.wait_for(lambda: len(self.said(kind)) >= count)
        return self.said(kind)

    def said(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    def release(self) -> None:
        """Place what was held back, on the streams that stand: done by breaking them, so that it is said again."""
        self.holding = False
        self.hang_up()

    def say(self, event: scheduler_pb2.SchedulerEvent) -> None:
        """On all streams."""
        for outbox in self._outboxes:
            outbox.put_nowait(scheduler_pb2.ScheduleResponse(events=[event], term=self.term))

    def hang_up(self) -> None:
        """End all streams."""
        outboxes, self._outboxes = self._outboxes, []
        for outbox in outboxes:
            outbox.put_nowait(None)

    async def _read(
        self,
        requests: AsyncIterator[scheduler_pb2.ScheduleRequest],
        outbox: "asyncio.Queue[scheduler_pb2.ScheduleResponse | None]",
    ) -> None:
        async for request in requests:
            decisions = [decision for event in request.events if (decision := self._decide(event))]
            async with self.heard:
                self.events.extend(request.events)
                self.heard.notify_all()
            if decisions:
                outbox.put_nowait(scheduler_pb2.ScheduleResponse(events=decisions, term=self.term))

    def _decide(self, event: scheduler_pb2.GatewayEvent) -> scheduler_pb2.SchedulerEvent | None:
        match event.WhichOneof("event"):
            case "submit":
                submit = event.submit
                key = (submit.identity.program_id, submit.identity.call_id)
                if submit.attempt:
                    self._attempts[key] = submit.attempt
                    return None
                self._attempts.pop(key, None)
            case "lose" | "hand_off" as kind:
                ended = event.lose if kind == "lose" else event.hand_off
                key = (ended.program_id, ended.call_id)
                if ended.attempt != self._attempts.get(key):
                    return None
            case _:
                return None
        if self.rejection is not None:
            rejection = scheduler_pb2.Rejection()
            rejection.CopyFrom(self.rejection)
            rejection.program_id, rejection.call_id = key
            return scheduler_pb2.SchedulerEvent(rejection=rejection)
        if self.holding:
            return None
        worker = self.workers[self._turn % len(self.workers)]
        self._turn += 1
        self._attempts[key] = self._attempts.get(key, 0) + 1
        placement = scheduler_pb2.Placement(
            program_id=key[0],
            call_id=key[1],
            attempt=self._attempts[key],
            worker_id=worker.worker_id,
            worker_address=worker.address,
            priority=3,
            kv=self.plans.popleft() if self.plans else None,
            eta=self.eta,
            prefill_token_seconds=self.speeds[0],
            step_seconds=self.speeds[1],
            cache=self.cache,
            term=self.term,
        )
        return scheduler_pb2.SchedulerEvent(placement=placement)


Script: TypeAlias = Callable[[worker_pb2.StartCall], "Words"]


def text_output(offset: int, text: str, **more: Any) -> worker_pb2.CallOutput:
    """One token that reads `text`."""
    return worker_pb2.CallOutput(offset=offset, token_ids=[100 + offset], text=text, **more)


def ending(
    start: worker_pb2.StartCall,
    completion_tokens: int,
    reason: call_pb2.FinishReason.ValueType = call_pb2.FINISH_REASON_STOP,
) -> worker_pb2.Finish:
    prompt = len(start.prompt_token_ids) - start.num_resumed_tokens
    usage = call_pb2.Usage(prompt_tokens=prompt, completion_tokens=completion_tokens, cached_tokens=min(prompt, 32))
    timings = call_pb2.Timings(queue_seconds=0.25, prefill_seconds=0.5, decode_seconds=1.0)
    return worker_pb2.Finish(reason=reason, usage=usage, timings=timings)


def counting(num_tokens: int) -> Script:
    """` 0 1 2 ...`: continues where it is resumed; of a prefill the first of them alone."""

    def script(start: worker_pb2.StartCall) -> Words:
        outputs = [text_output(index, f" {index}") for index in range(start.num_resumed_tokens, num_tokens)]
        if start.kv.hand_off and len(outputs) > 1:
            end = outputs[1].offset
            finish = ending(start, end, call_pb2.FINISH_REASON_LENGTH)
            return [outputs[0], worker_pb2.CallOutput(offset=end, finish=finish)]
        outputs.append(worker_pb2.CallOutput(offset=num_tokens, finish=ending(start, num_tokens)))
        return outputs

    return script


@dataclass(eq=False)
class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Plays `script` for each call: all of it at once, or up to `stop_after` outputs until `resume` is set."""

    worker_id: str
    model_path: str
    script: Script = field(default_factory=lambda: counting(5))
    model: str = "tiny"
    stop_after: int | None = None
    term: int = 0
    """Calls that were placed in an earlier one are refused."""
    address: str = ""
    starts: list[worker_pb2.StartCall] = field(default_factory=list[worker_pb2.StartCall])
    aborted: list[int] = field(default_factory=list[int])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    _outboxes: list["asyncio.Queue[worker_pb2.GenerateResponse | None]"] = field(
        default_factory=list["asyncio.Queue[worker_pb2.GenerateResponse | None]"]
    )
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    _server: grpc.aio.Server | None = None

    async def Describe(self, request: worker_pb2.DescribeRequest, context: Context) -> worker_pb2.DescribeResponse:
        return worker_pb2.DescribeResponse(
            description=worker_pb2.WorkerDescription(
                worker_id=self.worker_id,
                model=self.model,
                model_path=self.model_path,
                engine="fake",
                max_model_len=CONTEXT_TOKENS,
                max_num_seqs=8,
                block_size=32,
                num_blocks=1000,
            )
        )

    async def Generate(
        self, request_iterator: AsyncIterator[worker_pb2.GenerateRequest], context: Context
    ) -> AsyncIterator[worker_pb2.GenerateResponse]:
        outbox: asyncio.Queue[worker_pb2.GenerateResponse | None] = asyncio.Queue()
        self._outboxes.append(outbox)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = [tasks.create_task(self._read(request_iterator, outbox, tasks))]
            try:
                while (response := await outbox.get()) is not None:
                    yield response
            finally:
                for task in self._tasks:
                    task.cancel()

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: Context
    ) -> AsyncGenerator[worker_pb2.WatchResponse]:
        raise NotImplementedError  # only schedulers watch
        yield

    async def SetRole(self, request: worker_pb2.SetRoleRequest, context: Context) -> worker_pb2.SetRoleResponse:
        raise NotImplementedError  # as only they change roles

    async def wait_for(self, condition: Callable[["FakeWorker"], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: condition(self))

    async def hang_up(self) -> None:
        """End all streams; calls may come again."""
        outboxes, self._outboxes = self._outboxes, []
        for outbox in outboxes:
            outbox.put_nowait(None)

    async def die(self) -> None:
        """As after kill -9: the connection breaks."""
        if self._server is not None:
            await self._server.stop(None)

    async def _read(
        self,
        requests: AsyncIterator[worker_pb2.GenerateRequest],
        outbox: "asyncio.Queue[worker_pb2.GenerateResponse | None]",
        tasks: asyncio.TaskGroup,
    ) -> None:
        async for request in requests:
            async with self.changed:
                if request.HasField("start") and request.start.term < self.term:
                    finish = worker_pb2.Finish(reason=call_pb2.FINISH_REASON_ERROR, error_reason="STALE_TERM")
                    finish.term = self.term
                    output = worker_pb2.CallOutput(slot=request.start.slot, finish=finish)
                    outbox.put_nowait(worker_pb2.GenerateResponse(outputs=[output]))
                elif request.HasField("start"):
                    self.starts.append(request.start)
                    self._tasks.append(tasks.create_task(self._play(request.start, outbox)))
                else:
                    self.aborted.append(request.abort.slot)
                self.changed.notify_all()

    async def _play(
        self, start: worker_pb2.StartCall, outbox: "asyncio.Queue[worker_pb2.GenerateResponse | None]"
    ) -> None:
        for number, output in enumerate(self.script(start)):
            if number == self.stop_after:
                await self.resume.wait()
            if start.slot in self.aborted:
                return
            output.slot = start.slot
            outbox.put_nowait(worker_pb2.GenerateResponse(outputs=[output]))

    @asynccontextmanager
    async def serving(self, registry: Registry) -> AsyncGenerator["FakeWorker"]:
        self._server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        member = Member("worker", self.worker_id, self.address, {"model": self.model, "engine": "fake"})
        try:
            async with registry.announce(member):
                yield self
        finally:
            await self._server.stop(None)


@asynccontextmanager
async def serving(scheduler: FakeScheduler, registry: Registry, id: str = "scheduler-1") -> AsyncGenerator[str]:
    """Serve the scheduler; yields its address."""
    server = grpc.aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with registry.announce(Member("scheduler", id, address, {})):
            yield address
    finally:
        await server.stop(None)
