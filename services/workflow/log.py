"""The call log, read: for the core that learns from it, and for whoever wants to see it.

How the service uses a LogReader:

    reader = LogReader(store, after=snapshot.position)     # "": no snapshot, all that the log keeps
    async for batch in reader.batches():
        for entry in batch.entries:
            core.handle(event_of(entry), entry.at)
        if batch.caught_up: ...                            # all that there was is in the core now
        ... now and then: save a snapshot together with batch.position, then
        await reader.acknowledge(batch.position)

The snapshot's position is the only truth about where to go on: what lies behind it is given again after a restart, and
an event that is told twice counts once. Acknowledging tells the store, and its operators, what would be given again.

Services that learn the same beside each other read the whole log each: every reader has a group of its own, which ends
with it. Groups of readers that died are dropped by the next one, after some minutes.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from prometheus_client import Counter, Gauge

from legato.v1 import workflow_pb2
from services.common.call_log import STREAM
from services.common.state import Store, StoreUnavailable, order

_log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 1.0
"""A batch comes so often while the store answers, an empty one if nothing happened."""
_READER: Final = "reader"
_PAGE: Final = 64
"""Entries of the stream read at once: half a megabyte, some milliseconds of decoding."""
_RETRY_SECONDS: Final = 0.2
_IDLE_SECONDS: Final = 600.0
"""A group that nobody reads for so long is dropped. A reader whose group was dropped makes it anew."""

GAPS = Counter(
    "legato_workflow_log_gaps_total", "Times that entries of the call log were dropped before they were read."
)
UNREADABLE = Counter("legato_workflow_log_unreadable_total", "Batches of the call log that could not be decoded.")
LAG = Gauge("legato_workflow_log_lag_batches", "Batches of the call log that were not read yet, as far as is known.")
PENDING = Gauge("legato_workflow_log_pending_batches", "Batches that were read and are in no snapshot.")


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read at once."""

    position: str
    """Of the last of it: whoever begins after it misses nothing and gets nothing of this again. Ids of the store, in
    the order of `state.order`."""
    entries: Sequence[workflow_pb2.LogEntry]
    caught_up: bool
    """There was nothing more when it was read."""


class LogReader:
    """Reads the whole log, in a group of its own."""

    def __init__(self, store: Store, after: str = "") -> None:
        self.group = ""
        """In the store, now. Another one after each failure: what was on its way then is not missed in the new one."""
        self._store = store
        self._after = after

    async def batches(self) -> AsyncGenerator[Batch]:
        """What comes after `after`, for ever. While the store is away it waits; then it goes on where it was.

        Where entries were dropped before they were read, that is logged and counted, and it goes on with the oldest.
        To be closed (`contextlib.aclosing`).
        """
        away = joined = caught_up = False
        try:
            while True:
                try:
                    if not joined:
                        await self._join()
                    joined = True
                    found = await self._read(WAIT_SECONDS if caught_up else 0.0)
                except StoreUnavailable as failure:
                    if not away:
                        _log.warning("the call log cannot be read: %s", failure)
                    away, joined = True, False
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if away:
                    _log.info("the call log is read again")
                    away = False
                caught_up = len(found) < _PAGE
                yield _batch(self._after, found, caught_up)
        finally:
            with suppress(StoreUnavailable):
                await self._leave()

    async def acknowledge(self, position: str) -> None:
        """Up to there all is in a snapshot. Never raises: the next one says it too."""
        try:
            await self._store.acknowledge(STREAM, self.group, position)
        except StoreUnavailable as failure:
            _log.info("a position in the call log is not acknowledged: %s", failure)

    async def _join(self) -> None:
        await self._leave()
        self.group = f"workflow-{secrets.token_hex(8)}"
        await self._store.drop_idle_groups(STREAM, _IDLE_SECONDS)
        await self._store.seek(STREAM, self.group, self._after or "0")

    async def _leave(self) -> None:
        if self.group:
            await self._store.drop_group(STREAM, self.group)

    async def _read(self, wait_seconds: float) -> list[tuple[str, bytes]]:
        oldest = await self._look()
        found = await self._store.read_group(STREAM, self.group, _READER, _PAGE, wait_seconds)
        if found:
            if self._after and order(self._after) < order(oldest):
                self._miss(oldest)
            self._after = found[-1][0]
        return found

    async def _look(self) -> str:
        """Measure, and see what there is; the oldest."""
        status = await self._store.status(STREAM, self.group)
        PENDING.set(status.pending)
        LAG.set(status.lag or 0)
        if order(self._after) > order(status.newest):  # its end was lost: what is there was read, and more will come
            self._miss(status.newest)
            self._after = status.newest
            await self._store.seek(STREAM, self.group, self._after or "0")
        return status.oldest

    def _miss(self, position: str) -> None:
        GAPS.inc()
        _log.error("the call log lost entries behind %s; it goes on at %s", self._after, position or "its beginning")


async def replay(
    store: Store, *, after: str = "", follow: bool = False
) -> AsyncGenerator[Sequence[workflow_pb2.LogEntry]]:
    """What the log keeps behind a position, in no group's name; then, if asked to follow, what comes.

    Raises StoreUnavailable.
    """
    after, wait_seconds = after or "0", 0.0
    while True:
        found = await store.read(STREAM, after, _PAGE, wait_seconds)
        if found:
            after = found[-1][0]
            yield _batch(after, found, caught_up=False).entries
        if len(found) < _PAGE:
            if not follow:
                return
            wait_seconds = WAIT_SECONDS


def _batch(position: str, found: Sequence[tuple[str, bytes]], caught_up: bool) -> Batch:
    entries: list[workflow_pb2.LogEntry] = []
    for entry_id, written in found:
        try:
            entries.extend(workflow_pb2.ReadLogResponse.FromString(written).entries)
        except DecodeError:
            UNREADABLE.inc()
            _log.error("the call log's %s cannot be decoded", entry_id)
    return Batch(position, entries, caught_up)
