"""Watches the workers: follows the registry's list, holds one Watch stream to each, and tells the core what they say.

A stream that breaks means that the worker is lost, at once; it is new when it answers again.
"""

import logging
from collections.abc import Collection

import grpc

from legato.v1 import worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.common.backoff import Backoff
from services.common.errors import Reason
from services.common.registry import Member, Registry
from services.scheduler import translation
from services.scheduler.events import FleetKnown, RoleChanged, WorkerLost
from services.scheduler.kv_translation import role_of
from services.scheduler.members import follow_each
from services.scheduler.term import Term, WorkerReport

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


async def watch(term: Term, registry: Registry) -> None:
    """Follow the workers until cancelled."""
    follower = _Follower(term)
    await follow_each(registry, "worker", follower.follow, follower.expect)


class _Follower:
    def __init__(self, term: Term) -> None:
        self._term = term
        self._awaited: set[str] | None = None
        """Workers of the first list that were not heard of yet."""

    def expect(self, names: Collection[str]) -> None:
        """The list as it is now."""
        if self._awaited is None:
            self._awaited = set(names)
            if not names:
                self._term.feed(FleetKnown())

    async def follow(self, member: Member) -> None:
        """Hold the worker's stream, again and again."""
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        try:
            async with rpc.channel(member.address, "worker") as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                while True:
                    if await self._hear(member, stub):
                        backoff.reset()
                    self._settle(member)
                    await backoff.pause()
        finally:
            self._settle(member)

    async def _hear(self, member: Member, stub: worker_pb2_grpc.WorkerServiceStub) -> bool:
        """Hold one stream until it ends or turns out to be another worker's; whether the worker said anything, and may
        again soon."""
        worker_id, stops = "", False
        stream = stub.Watch(worker_pb2.WatchRequest(term=self._term.number), wait_for_ready=True)
        try:
            async for response in stream:
                if response.HasField("description"):
                    if response.description.worker_id != member.id:
                        # Another life of the worker at the same address; it is followed under its own name.
                        _log.warning("worker %s is gone: %s answers", member.id, response.description.worker_id)
                        break
                    if not worker_id:
                        worker_id = member.id
                        self._join(response, member)
                        continue
                self._report(worker_id, response)
        except grpc.aio.AioRpcError as error:
            failure = rpc.failure_from(error)
            stops = failure.reason is Reason.DRAINING
            _log.warning("worker %s: watching ended: %s", member.id, failure)
            self._term.heed(failure)
        finally:
            stream.cancel()
            if worker_id:
                self._term.reports.pop(worker_id, None)
                self._term.feed(WorkerLost(worker_id))
        return worker_id != "" and not stops

    def _join(self, response: worker_pb2.WatchResponse, member: Member) -> None:
        description = response.description
        self._term.reports[description.worker_id] = WorkerReport(description, response.load, member.address)
        self._term.feed(translation.joined(response, member.address))
        self._settle(member)

    def _report(self, worker_id: str, response: worker_pb2.WatchResponse) -> None:
        report = self._term.reports.get(worker_id)
        if report is None:
            return
        if response.HasField("description"):
            report.description = response.description
            self._term.feed(RoleChanged(worker_id, role_of(response.description.role)))
        if response.HasField("load"):
            report.load = response.load
            self._term.feed(translation.load_of(worker_id, response.load))
        if response.HasField("cache"):
            self._term.feed(translation.cache_of(worker_id, response.cache))

    def _settle(self, member: Member) -> None:
        """The worker answered, or will not for now."""
        if self._awaited and member.id in self._awaited:
            self._awaited.discard(member.id)
            if not self._awaited:
                self._term.feed(FleetKnown())
