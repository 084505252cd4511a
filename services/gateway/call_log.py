"""What happened, on its way into the call log (services/common/call_log.py).

Nothing waits for it: `put` takes an entry into a bounded buffer, and one task writes what has gathered behind. While
the state store is away entries wait; beyond the bound the oldest are dropped and counted. So what is lost is what a
gateway had not written when it was killed, some 50 ms of events, and what an outage leaves no room for.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from legato.v1 import workflow_pb2
from services.common import call_log
from services.common.state import Store, StoreUnavailable
from services.gateway import metrics

_log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.05
FLUSH_ENTRIES: Final = 512
_WRITTEN_AT_ONCE: Final = 512
"""Entries in one round trip: to pack them takes some 10 ms, in which the gateway does nothing else."""
_RETRY_SECONDS: Final = 0.2
_CLOSE_SECONDS: Final = 3.0
"""How long the end of the process may wait for the store."""


class CallLog:
    """The buffer, and what writes it. `kept_batches`: of the log, by all gateways."""

    def __init__(self, store: Store, most_entries: int, kept_batches: int) -> None:
        self._store = store
        self._most = most_entries
        self._kept = kept_batches
        self._buffer: deque[workflow_pb2.LogEntry] = deque()
        self._unwritten: list[bytes] = []
        """Batches that are being written."""
        self._num_unwritten = 0
        """Entries in them."""
        self._some = asyncio.Event()
        self._many = asyncio.Event()
        self._away = False

    def put(self, entry: workflow_pb2.LogEntry) -> None:
        """Have it written soon. It is not to be changed after that."""
        if len(self._buffer) + self._num_unwritten >= self._most and self._buffer:
            self._buffer.popleft()
            metrics.LOG_DROPPED.inc()
        self._buffer.append(entry)
        if len(self._buffer) == 1:
            self._some.set()
        elif len(self._buffer) == FLUSH_ENTRIES:
            self._many.set()

    async def run(self) -> None:
        """Write, until cancelled, whatever becomes of single writes."""
        while True:
            await self._gather()
            if not await self._write():
                await asyncio.sleep(_RETRY_SECONDS)

    async def flush(self) -> None:
        """Write what is left, once `run` has ended, if the store answers soon."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while (self._buffer or self._unwritten) and await self._write():
                    pass
        except TimeoutError:
            pass
        if left := len(self._buffer) + self._num_unwritten:
            metrics.LOG_DROPPED.inc(left)
            _log.error("%d entries of the call log were not written", left)

    async def _gather(self) -> None:
        """Wait for entries, and a little for more of them: one write of many costs little more than one of few."""
        if self._unwritten:
            return
        await self._some.wait()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._many.wait()
        except TimeoutError:
            pass

    async def _write(self) -> bool:
        """One round trip. False: it failed; what it was to write is written next."""
        try:
            if not self._unwritten:
                self._take()
            await self._store.append_many(call_log.STREAM, self._unwritten, self._kept)
        except StoreUnavailable as failure:
            self._fail(str(failure))
            return False
        except Exception:  # a bug, which must not end the gateway: it can do without its log
            _log.exception("%d entries of the call log are lost", self._num_unwritten)
            metrics.LOG_DROPPED.inc(self._num_unwritten)
            self._wrote()
            return False
        metrics.LOG_WRITTEN.inc(self._num_unwritten)
        self._wrote()
        if self._away:
            self._away = False
            _log.info("the call log is written again")
        return True

    def _take(self) -> None:
        taken = [self._buffer.popleft() for _ in range(min(_WRITTEN_AT_ONCE, len(self._buffer)))]
        if not self._buffer:
            self._some.clear()
        if len(self._buffer) < FLUSH_ENTRIES:
            self._many.clear()
        self._num_unwritten = len(taken)
        self._unwritten = [batch.SerializeToString() for batch in call_log.batches(taken)]

    def _wrote(self) -> None:
        self._unwritten, self._num_unwritten = [], 0
        metrics.LOG_WAITING.set(len(self._buffer))

    def _fail(self, why: str) -> None:
        metrics.LOG_WAITING.set(len(self._buffer) + self._num_unwritten)
        if not self._away:
            self._away = True
            _log.warning("the call log is not written: %s", why)


@asynccontextmanager
async def writing(
    tasks: asyncio.TaskGroup, store: Store, most_entries: int, kept_bytes: int
) -> AsyncGenerator[CallLog]:
    """A log that is written until the context is left, and then to its end."""
    log = CallLog(store, most_entries, max(1, kept_bytes // call_log.BATCH_BYTES))
    writer = tasks.create_task(log.run(), name="write the call log")
    try:
        yield log
    finally:
        writer.cancel()
        await asyncio.wait([writer])
        await log.flush()
