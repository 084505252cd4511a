"""What a gateway does when the end of its cluster is near: programs that live go on, new ones are refused.

Which programs live the scheduler says, at the time, so it does not matter by which gateway they came so far. Until it
has said so all may come, and whoever does goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from legato.v1 import scheduler_pb2
from services.common.errors import Failure, Reason
from services.gateway.asked import answer
from services.gateway.schedule import Scheduler

log = logging.getLogger(__name__)

_PAGE = 1_000
_LARGEST_PAGE = 10_000
_SCHEDULER_SECONDS = 10.0
_AGAIN_SECONDS = 1.0
_PAGELESS_AGAIN_SECONDS = 10.0
"""Until a scheduler of the version before may have been replaced."""
_RETRY_AFTER_SECONDS = 30.0
"""A cluster that follows this one is up then at best."""


class Closing:
    """Whom a gateway still admits. `in_flight`: the programs of its calls."""

    def __init__(self, scheduler: Scheduler, in_flight: Callable[[], Iterable[str]]) -> None:
        self._scheduler = scheduler
        self._in_flight = in_flight
        self._near = asyncio.Event()
        self._live: set[str] = set()
        """Programs that go on, once the end is near."""
        self._refusing = False

    def begin(self) -> None:
        """From now on refuse programs that do not live, as soon as it is known which do."""
        if not self._near.is_set():
            self._live.update(self._in_flight())
            self._near.set()

    async def run(self) -> None:
        """Ask who lives when the end is near, as often as it takes. Without a scheduler all may still come."""
        await self._near.wait()
        told = False
        while not self._refusing:
            try:
                await self._ask()
            except Failure as failure:
                if not told:
                    log.warning("new programs are still admitted, for nobody knows yet which live: %s", failure)
                told = True
                await asyncio.sleep(failure.retry_after_seconds or _AGAIN_SECONDS)
            else:
                self._refusing = True
        log.info("the end is near: %d programs go on, no new ones are admitted", len(self._live))

    async def _ask(self) -> None:
        """Adds all that live. Raises Failure; what is known by then is kept."""
        request = scheduler_pb2.ListProgramsRequest(limit=_PAGE)
        while True:
            listed = await answer(self._scheduler.stub.ListPrograms(request, timeout=_SCHEDULER_SECONDS))
            self._live.update(program.program_id for program in listed.programs)
            if listed.next_page_token:
                request.page_token = listed.next_page_token
            elif len(listed.programs) < request.limit:
                return
            elif request.limit < _LARGEST_PAGE:  # all, or as many as are told by a scheduler that knows of no pages
                request.limit = _LARGEST_PAGE
            else:
                message = f"the scheduler lists {_LARGEST_PAGE} programs and knows of no pages"
                raise Failure(Reason.UNAVAILABLE, message, retry_after_seconds=_PAGELESS_AGAIN_SECONDS)

    def check(self, program_id: str) -> None:
        """Raises Failure for a program that is not admitted."""
        if self._refusing:
            if program_id not in self._live:
                message = "this cluster is about to end and admits no new programs"
                raise Failure(Reason.DRAINING, message, retry_after_seconds=_RETRY_AFTER_SECONDS)
        elif self._near.is_set():
            self._live.add(program_id)
