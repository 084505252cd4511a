"""Archive: programs in the state store, so that attained service outlives a scheduler.

Written behind, `save_seconds` after a change at the latest while the store answers; while it does not, the newest
changed programs are remembered and written later. Nothing ever waits for the store except the beginning of a term, and
that no longer than `_OPEN_SECONDS`: what was not read then is read later, and added to what has happened meanwhile;
nothing is written before. The store's fence refuses a scheduler of an earlier term than one it has met. However many
programs are read, leases are renewed and streams answered between a few and the next few.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Any

from services.common.state import Store, StoreUnavailable
from services.scheduler import metrics
from services.scheduler.events import ProgramRestored, TokenUsage
from services.scheduler.records import Program
from services.scheduler.service_class import ServiceClass
from services.scheduler.term import Term

_log = logging.getLogger(__name__)

_PREFIX = "program/"
_FENCE = "scheduler"
_BATCH = 1_000
_AT_ONCE = 100
"""Programs that are restored before others get their turn on the event loop: some milliseconds."""
_MOST_UNSAVED = 100_000
_OPEN_SECONDS = 2.0  # a store that answers slowly, and often, would hold up all calls
_FIELDS = (
    "num_finished",
    "num_restarted",
    "executed_seconds",
    "attained_seconds",
    "waited_seconds",
    "queue_seconds",
)


class Archive:
    """Of one term. Programs that nobody changed for `expire_seconds` are forgotten."""

    def __init__(self, term: Term, store: Store, save_seconds: float, expire_seconds: float) -> None:
        self._term = term
        self._store = store
        self._save_seconds = save_seconds
        self._expire_seconds = expire_seconds
        self._untold: deque[ProgramRestored] | None = None
        """What was read and the core does not know yet; None: nothing was read, and nothing may be written."""

    async def open(self) -> None:
        """Tell the term's core what earlier ones knew, all of it now if the store answers."""
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._read_all()
        except (StoreUnavailable, TimeoutError) as failure:
            _log.warning("programs are not restored yet: %r", failure)
        await self._tell()

    async def keep(self) -> None:
        """Write changed programs until cancelled, whatever becomes of single writes."""
        while True:
            await asyncio.sleep(self._save_seconds)  # gathers what changes meanwhile into one write
            await self.save()
            unsaved = self._term.unsaved
            while len(unsaved) > _MOST_UNSAVED:
                del unsaved[next(iter(unsaved))]
            metrics.UNSAVED.set(len(unsaved))

    async def save(self) -> None:
        """Write all changed programs now. What could not be written stays unsaved, which is logged."""
        unsaved = self._term.unsaved
        try:
            if self._untold is None:
                await self._read_all()
            await self._tell()
            while self._untold is not None and unsaved:
                await self._save_batch()
        except StoreUnavailable as failure:
            _log.warning("%d programs are not saved: %s", len(unsaved), failure)
        except Exception:  # a bug, which must not end the scheduler: it can do without its archive
            _log.exception("%d programs are not saved", len(unsaved))

    async def _read_all(self) -> None:
        """All of them or, when this raises, none."""
        term = self._term
        if not await self._put({}):  # first of all, so that nobody before us writes what we do not read
            return
        found: list[ProgramRestored] = []
        async for key, value in self._store.items(_PREFIX):
            try:
                found.append(_read(key.removeprefix(_PREFIX), value, term.epoch))
            except (ValueError, TypeError, KeyError) as error:
                _log.warning("state of %s is not readable: %r", key, error)
            if not len(found) % _AT_ONCE:
                await asyncio.sleep(0)
        self._untold = deque(sorted(found, key=lambda event: event.started))

    async def _tell(self) -> None:
        """Each of them once. What is left when this is cancelled is told before anything is written."""
        term = self._term
        while self._untold:
            event = self._untold.popleft()
            if event.program_id not in term.unsaved or term.core.programs.get(event.program_id):  # else it has ended
                term.restore(event)
            if not len(self._untold) % _AT_ONCE:
                await asyncio.sleep(0)

    async def _save_batch(self) -> None:
        unsaved = self._term.unsaved
        batch = list(unsaved)[:_BATCH]
        for program_id in batch:
            del unsaved[program_id]
        done = False
        try:
            done = await self._put({program_id: self._term.core.programs.get(program_id) for program_id in batch})
        finally:
            if not done:  # cancellation too: the last save of a term follows it
                unsaved.update(dict.fromkeys(batch))

    async def _put(self, programs: Mapping[str, Program | None]) -> bool:
        """Write these, and forget those that have ended. False: the term is over."""
        term = self._term
        written = {f"{_PREFIX}{name}": _write(program, term.epoch) for name, program in programs.items() if program}
        gone = [f"{_PREFIX}{name}" for name, program in programs.items() if program is None]
        met = await self._store.write(_FENCE, term.number, written, gone, self._expire_seconds)
        if met > term.number:
            self._untold = None
            term.overtake(met)
        return met == term.number


def _write(program: Program, epoch: float) -> bytes:
    values: dict[str, Any] = {name: getattr(program, name) for name in _FIELDS}
    usage = program.usage
    values["service_class"] = int(program.service_class)
    if program.deadline < inf:
        values["deadline"] = program.deadline + epoch
    values["usage"] = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
    return json.dumps({"tenant": program.tenant, "started": program.started + epoch, **values}).encode()


def _read(program_id: str, value: bytes, epoch: float) -> ProgramRestored:
    values = json.loads(value)
    known = {name: values[name] for name in _FIELDS}
    return ProgramRestored(
        program_id,
        values["tenant"],
        values["started"] - epoch,
        usage=TokenUsage(*values["usage"]),
        service_class=ServiceClass(values.get("service_class", ServiceClass.DEFAULT)),  # earlier versions wrote none
        deadline=values["deadline"] - epoch if "deadline" in values else inf,
        **known,
    )
