"""Placement: each call goes where it is predicted to complete first, if there is room; if that worker is full, the call
is held for it and the next call is looked at.

So a warm cache attracts (soft affinity) and a long wait for it repels (load escape). Held calls count towards the wait
that later ones predict. Two rules limit holding:

- A worker with an idle slot takes some call that fits it; among held ones the one that loses least by moving.
- A call held because its KV does not fit keeps what is free for itself; smaller calls do not slip past it for ever.

A worker that has just lost a call (see `Worker.lost`) gets that call only if no other takes it at all.

Judging a call costs a prediction for each worker, so a decision to hold stands for a while unless the worker that the
call is held for has room: a pass mostly walks over calls it has judged before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.scheduler.cache_index import CacheIndex
from services.scheduler.limits import Limits
from services.scheduler.outlook import Outlook
from services.scheduler.records import Call, Hold, Worker

_STANDS_SECONDS = 0.25
_JUDGED_AGAIN = 4
"""Decisions that fell due and are made anew, in one pass."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A call and where it goes."""

    call: Call
    worker: Worker
    kv_blocks: int
    cached_tokens: int
    seconds: float
    """Predicted until completion."""


@dataclass(slots=True)
class Plan:
    """What a pass decided; nothing is entered in any ledger yet, except `hold` on the calls it held."""

    assignments: list[Assignment] = field(default_factory=list[Assignment])
    unservable: list[Call] = field(default_factory=list[Call])
    """Their prompts fit no worker of the model."""
    num_judged: int = 0


def plan(calls: Sequence[Call], workers: Sequence[Worker], index: CacheIndex, now: float, limits: Limits) -> Plan:
    """Look at `calls` in their order and decide which run where. `workers`: those of their model that do not drain."""
    result = Plan()
    if not any(worker.open(limits.lookahead_calls) for worker in workers):
        return result
    outlooks = {worker.worker_id: Outlook(worker, now, limits) for worker in workers}
    held: list[Call] = []
    again = _JUDGED_AGAIN
    for call in calls:
        hold = call.hold
        if (
            hold is not None
            and (outlook := outlooks.get(hold.worker_id)) is not None
            and not outlook.fits(hold.kv_blocks)
        ):
            due = hold.judged_at + _STANDS_SECONDS <= now
            if not due or not again:
                outlook.hold(call, hold.kv_blocks, hold.cached_blocks)
                held.append(call)
                continue
            again -= 1
        result.num_judged += 1
        _judge(call, outlooks, index, now, result, held)
    _fill_idle(held, outlooks, index, result)
    return result


def _judge(
    call: Call, outlooks: dict[str, Outlook], index: CacheIndex, now: float, result: Plan, held: list[Call]
) -> None:
    """Assign the call to the worker that completes it first (the earlier one on a tie), or hold it for that one."""
    matches = index.match(call.block_hashes, outlooks)
    best: Outlook | None = None
    least = 0.0
    for outlook in _candidates(call, outlooks.values()):
        seconds = outlook.completion_seconds(call, matches.get(outlook.worker_id, 0))
        if best is None or seconds < least:
            best, least = outlook, seconds
    if best is None:
        result.unservable.append(call)
        return
    cached_blocks = matches.get(best.worker_id, 0)
    blocks = best.worker.blocks_for(call)
    if best.fits(blocks):
        result.assignments.append(_assign(call, best, blocks, cached_blocks, least))
    else:
        best.hold(call, blocks, cached_blocks)
        call.hold = Hold(best.worker_id, blocks, cached_blocks, least, now)
        held.append(call)


def _candidates(call: Call, outlooks: Iterable[Outlook]) -> list[Outlook]:
    """Those that take the call, without the ones that it avoids unless there are no others."""
    able = [outlook for outlook in outlooks if call.prompt_tokens < outlook.max_model_len]
    if not call.avoided:
        return able
    return [outlook for outlook in able if not outlook.worker.avoided_by(call)] or able


def _assign(call: Call, outlook: Outlook, blocks: int, cached_blocks: int, seconds: float) -> Assignment:
    outlook.assign(call, blocks, cached_blocks)
    cached_tokens = min(cached_blocks * outlook.block_size, call.prompt_tokens)
    return Assignment(call, outlook.worker, blocks, cached_tokens, seconds)


def _fill_idle(held: Sequence[Call], outlooks: dict[str, Outlook], index: CacheIndex, result: Plan) -> None:
    """Let workers with idle slots take held calls, those first that lose least by it, then in their order."""
    least = min((call.hold.kv_blocks for call in held if call.hold is not None), default=0)
    idle = [outlook for outlook in outlooks.values() if outlook.fits_idle(least)]
    if not idle or not held:
        return
    moves: list[tuple[float, int, int, int]] = []
    for i, call in enumerate(held):
        matches = index.match(call.block_hashes, [outlook.worker_id for outlook in idle])
        hold = call.hold
        for j, outlook in enumerate(idle):
            if (
                hold is not None
                and hold.worker_id != outlook.worker_id
                and call.prompt_tokens < outlook.max_model_len
                and not outlook.worker.avoided_by(call)
            ):
                cached_blocks = matches.get(outlook.worker_id, 0)
                loss = outlook.completion_seconds(call, cached_blocks) - hold.seconds
                moves.append((loss, i, j, cached_blocks))
    moved: set[int] = set()
    for loss, i, j, cached_blocks in sorted(moves):
        call, outlook = held[i], idle[j]
        blocks = outlook.worker.blocks_for(call)
        if i not in moved and call.hold is not None and outlook.fits_idle(blocks):
            moved.add(i)
            result.assignments.append(_assign(call, outlook, blocks, cached_blocks, call.hold.seconds + loss))
