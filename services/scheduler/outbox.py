"""Outbox: decisions on their way to one gateway.

Holds the latest decision of each call. While it is full, `room` keeps the gateway's next events out, so it is bounded
by `_FULL`, one batch of events, and the gateway's placed calls (which may lose their workers meanwhile).
"""

import asyncio

from legato.v1 import scheduler_pb2
from services.common.errors import Failure
from services.scheduler.eta import Eta
from services.scheduler.events import CallKey, Place, Reject
from services.scheduler.translation import decision_of

_FULL = 10_000


class Outbox:
    """Written by the core's driver, read by the stream. `term`: in which is decided."""

    def __init__(self, term: int = 0) -> None:
        self._term = term
        self._waiting: dict[CallKey, tuple[Place | Reject, Eta | None]] = {}
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._failure: Failure | None = None

    def put(self, action: Place | Reject, eta: Eta | None = None) -> None:
        """Add a decision, in place of an unsent one about the same call. `eta`: of its program."""
        self._waiting[action.program_id, action.call_id] = action, eta
        self._changed.set()
        if len(self._waiting) >= _FULL:
            self._room.clear()

    def close(self) -> None:
        """End without an error, unsent decisions dropped."""
        self._closed = True
        self._changed.set()

    def fail(self, failure: Failure) -> None:
        """End now, with an error."""
        self._failure = failure
        self._changed.set()

    async def room(self) -> None:
        """Wait while the outbox is full."""
        await self._room.wait()

    def greeting(self) -> scheduler_pb2.ScheduleResponse:
        """What is said before anything is decided."""
        return scheduler_pb2.ScheduleResponse(term=self._term)

    async def take(self) -> scheduler_pb2.ScheduleResponse | None:
        """Wait for decisions and take all there are; None at the end. Raises the failure that was set."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            if self._waiting:
                break
            self._changed.clear()
            await self._changed.wait()
        events = [decision_of(*waiting, self._term) for waiting in self._waiting.values()]
        batch = scheduler_pb2.ScheduleResponse(events=events, term=self._term)
        self._waiting.clear()
        self._room.set()
        return batch
