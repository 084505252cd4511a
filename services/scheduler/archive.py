"""Archive: programs in the state store, so that attained service outlives a scheduler.

Written behind, `save_seconds` after a change at the latest while the store answers; while it does not, the newest
changed programs are remembered and written later. Nothing ever waits for the store except the beginning of a term.
"""

import asyncio
import json
import logging
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
_BATCH = 1_000
_MOST_UNSAVED = 100_000
_FIELDS = (
    "num_finished",
    "num_restarted",
    "executed_seconds",
    "attained_seconds",
    "waited_seconds",
    "queue_seconds",
)


async def restore(term: Term, store: Store) -> None:
    """Tell the term's core what an earlier one knew; less than all of it where the store does not answer."""
    restored: list[ProgramRestored] = []
    try:
        async for key, value in store.items(_PREFIX):
            try:
                restored.append(_read(key.removeprefix(_PREFIX), value, term.epoch))
            except (ValueError, TypeError, KeyError) as error:
                _log.warning("state of %s is not readable: %r", key, error)
    except StoreUnavailable as failure:
        _log.warning("programs are not restored: %s", failure)
    for event in sorted(restored, key=lambda event: event.started):
        term.feed(event)


async def keep(term: Term, store: Store, save_seconds: float, expire_seconds: float) -> None:
    """Write changed programs until cancelled, whatever becomes of single writes."""
    while True:
        await asyncio.sleep(save_seconds)  # gathers what changes meanwhile into one write
        await save(term, store, expire_seconds)
        while len(term.unsaved) > _MOST_UNSAVED:
            del term.unsaved[next(iter(term.unsaved))]
        metrics.UNSAVED.set(len(term.unsaved))


async def save(term: Term, store: Store, expire_seconds: float) -> None:
    """Write all changed programs now. What could not be written stays unsaved, which is logged."""
    try:
        while term.unsaved:
            await _save_batch(term, store, expire_seconds)
    except StoreUnavailable as failure:
        _log.warning("%d programs are not saved: %s", len(term.unsaved), failure)
    except Exception:  # a bug, which must not end the scheduler: it can do without its archive
        _log.exception("%d programs are not saved", len(term.unsaved))


async def _save_batch(term: Term, store: Store, expire_seconds: float) -> None:
    batch = list(term.unsaved)[:_BATCH]
    for program_id in batch:
        del term.unsaved[program_id]
    try:
        programs = {program_id: term.core.programs.get(program_id) for program_id in batch}
        written = {f"{_PREFIX}{name}": _write(program, term.epoch) for name, program in programs.items() if program}
        if written:
            await store.put_many(written, expire_seconds)
        if gone := [f"{_PREFIX}{name}" for name, program in programs.items() if program is None]:
            await store.delete(*gone)
    except BaseException:  # cancellation too: the last save of a term follows it
        term.unsaved.update(dict.fromkeys(batch))
        raise


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
