"""What a gateway does when the end of its cluster is near: programs that live go on, new ones are refused.

Which programs live the scheduler says, at the time, so it does not matter by which gateway they came so far.
"""

import logging

import grpc

from legato.v1 import scheduler_pb2
from services.common.errors import Failure, Reason
from services.gateway.schedule import Scheduler

log = logging.getLogger(__name__)

_PAGE = 1_000
_SCHEDULER_SECONDS = 10.0
_RETRY_AFTER_SECONDS = 30.0
"""A cluster that follows this one is up then at best."""


class Closing:
    """Whom a gateway still admits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._admitted: frozenset[str] | None = None
        """Programs that go on; None: all may come."""
        self._came: set[str] = set()
        """Programs that made a call while it was asked who lives."""
        self._asking = False

    async def close(self) -> None:
        """From now on refuse programs that do not live. Without a scheduler all may still come."""
        self._asking = True
        try:
            live = await self._live()
        except (Failure, grpc.aio.AioRpcError) as error:
            log.warning("new programs are still admitted, for nobody knows which live: %s", error)
            return
        finally:
            self._asking = False
        self._admitted = frozenset(live | self._came)
        log.info("the end is near: %d programs go on, no new ones are admitted", len(self._admitted))

    async def _live(self) -> set[str]:
        """Raises Failure or AioRpcError."""
        request, live = scheduler_pb2.ListProgramsRequest(limit=_PAGE), set[str]()
        while True:
            listed = await self._scheduler.stub.ListPrograms(request, timeout=_SCHEDULER_SECONDS)
            live.update(program.program_id for program in listed.programs)
            if not listed.next_page_token:
                return live
            request.page_token = listed.next_page_token

    def check(self, program_id: str) -> None:
        """Raises Failure for a program that is not admitted."""
        if self._admitted is None:
            if self._asking:
                self._came.add(program_id)
        elif program_id not in self._admitted:
            message = "this cluster is about to end and admits no new programs"
            raise Failure(Reason.DRAINING, message, retry_after_seconds=_RETRY_AFTER_SECONDS)
