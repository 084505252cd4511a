"""Placement: each call goes where it is predicted to complete first, if there is room; if that worker is full, the call
is held for it and the next call is looked at.

So a warm cache attracts (soft affinity) and a long wait for it repels (load escape). Held calls count towards the wait
that later ones predict. Two rules limit holding:

- A worker with an idle slot takes some call that fits it; among held ones the one that loses least by moving.
- A call held because its KV does not fit keeps what is free for itself; smaller calls do not slip past it for ever.

With prefill workers a call may also be assigned to one of those, for its prefill alone (prospects.py). An idle prefill
worker takes over only what is held for another prefill worker: a call that waits for a decoder would wait as long.

A worker that has just lost a call (see `Worker.lost`) gets that call only if no other takes it at all.

Judging a call costs a prediction for each worker, so a decision to hold stands for a while unless the worker that the
call is held for has room: a pass mostly walks over calls it has judged before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter

from services.scheduler.cache_index import CacheIndex
from services.scheduler.limits import Limits
from services.scheduler.outlook import Outlook
from services.scheduler.pools import Pools
from services.scheduler.prospects import Prospects, Roster, Way
from services.scheduler.records import Call, Hold, Worker
from services.scheduler.supply import Supply

_STANDS_SECONDS = 0.25
_JUDGED_AGAIN = 4
"""Decisions that fell due and are made anew, in one pass."""
_cost = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A call and where it goes."""

    call: Call
    worker: Worker
    kv_blocks: int
    supply: Supply
    seconds: float
    """Predicted until it is done there."""
    prefill_seconds: float
    hand_off: bool = False
    """It is prefilled there, no more."""


@dataclass(slots=True)
class Plan:
    """What a pass decided; nothing is entered in any ledger yet, except `hold` on the calls it held."""

    assignments: list[Assignment] = field(default_factory=list[Assignment])
    unservable: list[Call] = field(default_factory=list[Call])
    """Their prompts fit no worker of the model."""
    num_judged: int = 0


def plan(
    calls: Sequence[Call], workers: Sequence[Worker], index: CacheIndex, pools: Pools, now: float, limits: Limits
) -> Plan:
    """Look at `calls` in their order and decide which run where. `workers`: those of their model that do not drain."""
    if not any(worker.open(limits.lookahead_calls) for worker in workers):
        return Plan()
    return _Pass(workers, index, pools, now, limits).run(calls)


class _Pass:
    def __init__(self, workers: Sequence[Worker], index: CacheIndex, pools: Pools, now: float, limits: Limits) -> None:
        self._outlooks = {worker.worker_id: Outlook(worker, now, limits, pools) for worker in workers}
        self._roster = Roster(list(self._outlooks.values()), index, pools, limits)
        self._now = now
        self._held: list[Call] = []
        self._result = Plan()

    def run(self, calls: Sequence[Call]) -> Plan:
        again = _JUDGED_AGAIN
        for call in calls:
            hold = call.hold
            if (
                hold is not None
                and (outlook := self._outlooks.get(hold.worker_id)) is not None
                and not outlook.fits(hold.kv_blocks)
            ):
                due = hold.judged_at + _STANDS_SECONDS <= self._now
                if not due or not again:
                    outlook.hold(call, hold.kv_blocks, hold.supplied_blocks)
                    self._held.append(call)
                    continue
                again -= 1
            self._result.num_judged += 1
            self._judge(call)
        self._fill_idle()
        return self._result

    def _judge(self, call: Call) -> None:
        """Assign the call in the way that costs least (the earlier one on a tie), or hold it for that one's worker."""
        prospects = Prospects(call, self._roster, self._roster.outlooks)
        way = min(prospects.ways(), key=_cost, default=None)
        if way is None:
            self._result.unservable.append(call)
            return
        outlook = way.outlook
        blocks = outlook.worker.blocks_for(call, way.output_tokens)
        if outlook.fits(blocks):
            self._assign(call, way, blocks)
        else:
            supplied_blocks = way.supply.blocks
            outlook.hold(call, blocks, supplied_blocks)
            decision = (way.cost, self._now, way.hand_off, prospects.found)
            call.hold = Hold(outlook.worker_id, blocks, supplied_blocks, *decision)
            self._held.append(call)

    def _assign(self, call: Call, way: Way, blocks: int) -> None:
        outlook = way.outlook
        outlook.assign(call, blocks, way.supply.blocks)
        prefill_seconds = outlook.prefill_seconds(call, way.supply.blocks)
        assignment = Assignment(call, outlook.worker, blocks, way.supply, way.seconds, prefill_seconds, way.hand_off)
        self._result.assignments.append(assignment)

    def _fill_idle(self) -> None:
        """Let workers with idle slots take held calls, those first that lose least by it, then in their order."""
        least = min((call.hold.kv_blocks for call in self._held if call.hold is not None), default=0)
        idle = [outlook for outlook in self._roster.outlooks if outlook.fits_idle(least)]
        if not idle or not self._held:
            return
        moves: list[tuple[float, int, int, Way]] = []
        for i, call in enumerate(self._held):
            if (hold := call.hold) is None:
                continue
            for way in Prospects(call, self._roster, idle, hold.hand_off, hold.found).ways():
                if (
                    way.cost < inf
                    and way.outlook.worker_id != hold.worker_id
                    and not way.outlook.worker.avoided_by(call)
                ):
                    moves.append((way.cost - hold.cost, i, len(moves), way))
        moved: set[int] = set()
        for _, i, _, way in sorted(moves):
            blocks = way.outlook.worker.blocks_for(self._held[i], way.output_tokens)
            if i not in moved and way.outlook.fits_idle(blocks):
                moved.add(i)
                self._assign(self._held[i], way, blocks)
