"""SchedulerService over the term that this process leads, if it does."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from legato.v1 import kv_pb2, kvpool_pb2, scheduler_pb2, scheduler_pb2_grpc, worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.scheduler import metrics
from services.scheduler.events import Reject
from services.scheduler.listing import page_of
from services.scheduler.term import NOT_LEADER, Gateway, PoolLink, Term
from services.scheduler.translation import event_of, status_of

_log = logging.getLogger(__name__)

_LISTED = 100
_MOST_LISTED = 10_000
_POOL_STATUS_SECONDS = 1.0
_SET_ROLE_SECONDS = 5.0


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Set `term` while leading, and clear `settled` while it is being prepared: gateways wait for it then. With `ended`
    streams end that have no end of their own. Everything runs on the event loop's thread."""

    def __init__(self, scheduler_id: str) -> None:
        self.scheduler_id = scheduler_id
        self.term: Term | None = None
        self.settled = asyncio.Event()
        self.settled.set()
        self.ended = asyncio.Event()

    async def Schedule(  # pyright: ignore[reportIncompatibleMethodOverride] (grpc.aio also takes handlers that write)
        self,
        request_iterator: AsyncIterator[scheduler_pb2.ScheduleRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        await self.settled.wait()
        self._leading()
        first = await anext(request_iterator, None)
        if first is None:
            return
        if not first.events or not first.events[0].hello.gateway_id:
            raise Failure(Reason.INVALID_ARGUMENT, "the first event must be a hello with a gateway_id", "events[0]")
        hello, term = first.events[0].hello, self._leading()
        if hello.term > term.number:
            term.overtake(hello.term)
            raise Failure(Reason.STALE_TERM, f"there is a term {hello.term}")
        gateway = term.open(hello.gateway_id)
        try:
            await context.write(gateway.outbox.greeting())
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(_read(term, gateway, first, request_iterator))
                while (batch := await gateway.outbox.take()) is not None:
                    await context.write(batch)
                reader.cancel()
        finally:
            term.close(gateway)

    async def Attend(
        self, request: scheduler_pb2.AttendRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[scheduler_pb2.AttendResponse]:
        if request.scheduler_id != self.scheduler_id:
            raise Failure(Reason.SCHEDULER_NOT_FOUND, f"this is {self.scheduler_id}, not {request.scheduler_id}")
        yield scheduler_pb2.AttendResponse()
        await self.ended.wait()

    async def ListWorkers(
        self, request: scheduler_pb2.ListWorkersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListWorkersResponse:
        term = self._leading()
        response = scheduler_pb2.ListWorkersResponse()
        for worker in term.core.fleet.workers():
            report = term.reports[worker.worker_id]
            response.workers.add(
                description=report.description,
                load=report.load,
                address=report.address,
                num_placed=len(worker.placed),
                num_cached_blocks=term.core.fleet.index.num_blocks(worker.worker_id),
            )
        return response

    async def ListPrograms(
        self, request: scheduler_pb2.ListProgramsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListProgramsResponse:
        term = self._leading()
        if request.limit > _MOST_LISTED:
            raise Failure(Reason.INVALID_ARGUMENT, f"limit: at most {_MOST_LISTED}, got {request.limit}", "limit")
        programs = term.core.programs
        listed = itertools.chain(programs.live(), programs.ended() if request.include_ended else ())
        chosen = (program for program in listed if not request.tenant or program.tenant == request.tenant)
        page, token = page_of(chosen, term.number, request.page_token, request.limit or _LISTED)
        statuses = [status_of(program, term.epoch, term.eta(program)) for program in page]
        return scheduler_pb2.ListProgramsResponse(programs=statuses, next_page_token=token)

    async def ListPools(
        self, request: scheduler_pb2.ListPoolsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.ListPoolsResponse:
        links = sorted(self._leading().pools.values(), key=lambda link: link.pool_id)
        statuses = await asyncio.gather(*(_pool_status(link) for link in links))
        return scheduler_pb2.ListPoolsResponse(pools=[status for status in statuses if status is not None])

    async def SetWorkerRole(
        self, request: scheduler_pb2.SetWorkerRoleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> scheduler_pb2.SetWorkerRoleResponse:
        term = self._leading()
        if (report := term.reports.get(request.worker_id)) is None:
            raise Failure(Reason.WORKER_NOT_FOUND, f"there is no worker {request.worker_id!r}", "worker_id")
        if request.role not in kv_pb2.WorkerRole.values():
            raise Failure(Reason.INVALID_ARGUMENT, f"role: {request.role} is none", "role")
        async with rpc.channel(report.address, "worker") as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            set_role = worker_pb2.SetRoleRequest(role=request.role, term=term.number)
            try:
                await stub.SetRole(set_role, timeout=_SET_ROLE_SECONDS)
            except grpc.aio.AioRpcError as error:
                failure = rpc.failure_from(error)
                term.heed(failure)
                raise failure from None
        return scheduler_pb2.SetWorkerRoleResponse()

    def _leading(self) -> Term:
        if self.term is None:
            raise Failure(Reason.NOT_LEADER, NOT_LEADER)
        return self.term


async def _pool_status(link: PoolLink) -> kvpool_pb2.PoolStatus | None:
    """What a pool says of itself; None when it does not answer in time."""
    if link.stub is None:
        return None
    try:
        return (await link.stub.Status(kvpool_pb2.StatusRequest(), timeout=_POOL_STATUS_SECONDS)).status
    except grpc.aio.AioRpcError as error:
        _log.info("pool %s does not tell its status: %s", link.pool_id, rpc.failure_from(error))
        return None


async def _read(
    term: Term,
    gateway: Gateway,
    first: scheduler_pb2.ScheduleRequest,
    requests: AsyncIterator[scheduler_pb2.ScheduleRequest],
) -> None:
    """Feed the gateway's events until it has no more, then end its stream."""
    _feed(term, gateway, first)
    async for request in requests:
        _feed(term, gateway, request)
        await gateway.outbox.room()
    gateway.outbox.close()


def _feed(term: Term, gateway: Gateway, request: scheduler_pb2.ScheduleRequest) -> None:
    arrived = time.perf_counter()
    for message in request.events:
        event = event_of(message, gateway.link)
        if isinstance(event, Reject):
            gateway.outbox.put(event)
        elif event is not None:
            term.hear(gateway, event)
            metrics.DECISION_SECONDS.observe(time.perf_counter() - arrived)
