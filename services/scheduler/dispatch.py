"""Dispatch: each call goes where placement finds it best, if there is room; if that worker is full, the call waits in
that worker's line, and the next call is looked at.

So a warm cache attracts (soft affinity) and a long wait for it repels (load escape). Calls in a line count towards the
wait that later ones predict. Two rules limit holding:

- A worker with an idle slot takes a call that fits it: of its own line, then, of a few others that wait and that the
  policy lets move, the first that gains, else the one that loses least. So no worker is empty while a call fits it.
- A call held because its KV does not fit keeps what is free for itself; smaller calls do not slip past it for ever.

With prefill workers a call may also be assigned to one of those, for its prefill alone (prospects.py). An idle prefill
worker takes over only what is held for another prefill worker: a call that waits for a decoder would wait as long.

A worker that has just lost a call (see `Worker.lost`) gets that call only if no other takes it at all.

Work is bounded by what changed, not by what there is: a call is judged when it comes into sight, when its worker has
room for it, and now and then while it waits; a worker is looked at when it was freed. Each judgement looks at a few
workers (candidates.py).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from operator import attrgetter, itemgetter

from services.scheduler.candidates import candidates
from services.scheduler.fleet import Fleet
from services.scheduler.outlook import Outlook
from services.scheduler.prospects import Facts, Found, Prospects, Way
from services.scheduler.queue import CallQueue
from services.scheduler.records import Call, Hold, Worker
from services.scheduler.roster import Roster
from services.scheduler.supply import Supply

_STANDS_SECONDS, _STANDS_LONG_SECONDS = 0.25, 2.0
"""A decision to wait, among few workers; among many."""
_JUDGED_AGAIN = 4
"""Decisions that fell due and are made anew, in one pass over a few workers; over many: one."""
_GAIN = 0.95
"""A call changes lines for a cost lower than this part of the old one."""
_SIGHT = 4
"""Calls in sight for each worker, if that is more than the limit says."""
_JUDGED = 64
"""In one pass."""
_OTHERS, _OTHERS_OF_MANY = 16, 4
"""Calls in other lines that a worker with an idle slot looks at, among few workers; among many."""
_LONGEST = 2
"""Besides, those first in the lines of the workers with most to do."""
_cost = itemgetter(0)
_order = attrgetter("order")


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that the policy would rather refuse."""

    call: Call


Decision = Assignment | Refusal | Call
"""A call alone: it fits no worker of the model."""


class Dispatch:
    """Decides for the calls in the queue's sight. Holds are entered here; assignments are the caller's to enter."""

    def __init__(self, queue: CallQueue, fleet: Fleet, facts: Facts) -> None:
        self._queue = queue
        self._fleet = fleet
        self._facts = facts
        self._holds: dict[str, deque[tuple[Call, Hold]]] = {}
        """By model, oldest first; some stand no more."""
        self.num_judged = 0
        """Calls for which workers were compared so far, with `num_looks` the measure of the work done."""
        self.num_looks = 0
        """Workers that were looked at for a call."""

    def check(self, model: str) -> None:
        """Raise AssertionError where a call in sight is forgotten, or lines and orders are not what they should be."""
        roster = self._fleet.roster(model)
        if not roster:
            return
        roster.check()
        held = {call for outlook in roster.outlooks.values() for _, call in outlook.line}
        seen = {*held, *self._queue.fresh(model), *roster.orphans}
        for call in self._queue.front(model, self._facts.limits.scan_limit):
            assert call in seen or not self._queue.seen(model), f"{call.key} is in sight, and nobody looks at it"
            assert (call in held) == (call.hold is not None), f"{call.key} is not in the line that it says"
        assert all(call in self._queue for call in held), "a call in a line does not wait"

    def pending(self, model: str) -> bool:
        """There is something to decide."""
        roster = self._fleet.roster(model)
        return bool(roster) and bool(roster.freed or roster.orphans or self._queue.fresh(model))

    def decide(self, model: str, now: float) -> Iterator[Decision]:
        """One bounded pass. Each decision must be carried out before the next one is asked for."""
        roster = self._fleet.roster(model)
        if not roster:
            return
        self._queue.see(model, max(self._facts.limits.scan_limit, _SIGHT * len(roster)))
        self._queue.look_again(roster.orphans)
        roster.orphans.clear()
        budget = self.num_judged + _JUDGED
        while (fresh := self._queue.fresh(model)) and self.num_judged < budget:
            for call in sorted(fresh, key=_order)[: budget - self.num_judged]:
                if fresh.pop(call, call) is None:  # else a decision before it took it out
                    yield from self._enter(call, roster, now)
        while roster.freed and self.num_judged < budget:
            outlook = next(iter(roster.freed))
            yield from self._serve(outlook, roster, now)
            yield from self._fill(outlook, roster, now)
            roster.freed.pop(outlook, None)
        yield from self._ask_resting(roster, now)
        yield from self._review(model, roster, now)

    def _enter(self, call: Call, roster: Roster, now: float) -> Iterator[Decision]:
        """A call of which nothing was decided."""
        prospects, ways = self._judge(call, roster, now)
        if not ways:
            yield call
            return
        best = min(ways, key=_cost)
        if self._facts.policy.refuses(call, best):
            yield Refusal(call)
        elif (way := self._free(call, ways, best, now)) is not None:
            yield self._assignment(call, way)
        else:
            self._hold(call, best, prospects.found, now)

    def _free(self, call: Call, ways: Sequence[Way], best: Way, now: float) -> Way | None:
        """The best way if there is room, else another one that the call may take rather than wait."""
        if best.outlook.fits(call, _needs(call, best)):
            return best
        other, cost = best.outlook, best.cost
        takers = [way for way in ways if way.hand_off <= best.hand_off and self._may_take(call, way, other, cost, now)]
        return min(takers, key=_cost, default=None)

    def _serve(self, outlook: Outlook, roster: Roster, now: float) -> Iterator[Decision]:
        """Those that wait for the worker, as far as there is room; one may find a better place that is free now."""
        while outlook.line:
            call = outlook.line[0][1]
            hold = call.hold
            assert hold is not None
            needs = outlook.needs(call, 1.0 if hold.hand_off else call.expected_output)  # less, if others share by now
            if not outlook.fits(call, min(needs, hold.kv_blocks)):
                return
            _, ways = self._judge(call, roster, now)
            free = [way for way in ways if way.outlook.fits(call, _needs(call, way))]
            if not free:  # what is expected of it or where it may go has changed
                outlook.drop(call)
                self._queue.look_again([call])
                return
            yield self._assignment(call, min(free, key=_cost))

    def _fill(self, outlook: Outlook, roster: Roster, now: float) -> Iterator[Decision]:
        """Let a worker with idle slots take calls from other lines: the first that gains by it, else the one that loses
        least."""
        if not outlook.worker.occupied:
            outlook.empty_since = min(outlook.empty_since, now)
            roster.resting[outlook] = None
        while outlook.takes(0):
            moves: list[tuple[float, int, Call, Way]] = []
            for i, call in enumerate(self._others(outlook, roster)):
                hold = call.hold
                if hold is None or hold.outlook is outlook:
                    continue
                self.num_looks += 1
                for way in self._prospects(call, [outlook], roster, now, hold).ways():
                    if self._may_take(call, way, hold.outlook, hold.cost, now):
                        gains = way.cost < _GAIN * hold.cost
                        moves.append((-inf if gains else way.cost - hold.cost, i, call, way))
            self.num_judged += bool(moves)
            moved = False
            for _, _, call, way in sorted(moves):
                if outlook.takes(_needs(call, way)):
                    moved = True
                    yield self._assignment(call, way)
            if not moved:
                return

    def _ask_resting(self, roster: Roster, now: float) -> Iterator[Decision]:
        """An empty worker that was not allowed to take a call may be by now."""
        while roster.resting:
            outlook = next(iter(roster.resting))
            del roster.resting[outlook]
            if not outlook.worker.occupied:
                yield from self._fill(outlook, roster, now)
                return

    def _review(self, model: str, roster: Roster, now: float) -> Iterator[Decision]:
        """Decisions to wait that are a while old."""
        holds = self._holds.setdefault(model, deque())
        again, stands = (_JUDGED_AGAIN, _STANDS_SECONDS) if roster.few else (1, _STANDS_LONG_SECONDS)
        while holds:
            call, hold = holds[0]
            if call.hold is hold:
                if not again or hold.judged_at + stands > now:
                    return
                again -= 1
                yield from self._reconsider(call, hold, roster, now)
            holds.popleft()

    def _reconsider(self, call: Call, hold: Hold, roster: Roster, now: float) -> Iterator[Decision]:
        prospects, ways = self._judge(call, roster, now)
        best = min(ways, key=_cost, default=None)
        if best is not None and (way := self._free(call, ways, best, now)) is not None:
            yield self._assignment(call, way)
            return
        same = [way for way in ways if way.outlook is hold.outlook and way.hand_off == hold.hand_off]
        if same and best is not None and best.cost >= _GAIN * same[0].cost:
            best = same[0]
        hold.outlook.drop(call)
        if best is None:
            self._queue.look_again([call])
        else:
            self._hold(call, best, prospects.found, now)

    def _judge(self, call: Call, roster: Roster, now: float) -> tuple[Prospects, list[Way]]:
        """Every way to run it that is looked at."""
        facts = self._facts
        self.num_judged += 1
        nominated = facts.policy.nominate(call, roster)
        if nominated is not None:
            self.num_looks += len(nominated)
            prospects = self._prospects(call, nominated, roster, now)
            if ways := prospects.ways():
                return prospects, ways
        outlooks = candidates(call, roster, facts.index, facts.pools)
        self.num_looks += len(outlooks)
        prospects = self._prospects(call, outlooks, roster, now)
        return prospects, prospects.ways()

    def _prospects(
        self, call: Call, outlooks: Sequence[Outlook], roster: Roster, now: float, hold: Hold | None = None
    ) -> Prospects:
        if hold is None:
            return Prospects(call, outlooks, roster, self._facts, now)
        return Prospects(call, outlooks, roster, self._facts, now, prefill=hold.hand_off, found=hold.found)

    def _may_take(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        """May its worker take a call that waits for another one, or would?"""
        outlook = way.outlook
        return (
            way.cost < inf
            and outlook.takes(_needs(call, way))
            and not outlook.worker.avoided_by(call)
            and self._facts.policy.moves(call, way, other, cost, now)
        )

    def _others(self, outlook: Outlook, roster: Roster) -> list[Call]:
        """A few calls that wait, in their order, and those first in the lines of workers with most to do."""
        model = outlook.worker.description.model
        front = dict.fromkeys(self._queue.front(model, _OTHERS if roster.few else _OTHERS_OF_MANY))
        for other in islice(roster.most(outlook), _LONGEST):
            if other.line:
                front[other.line[0][1]] = None
        return list(front)

    def _assignment(self, call: Call, way: Way) -> Assignment:
        outlook = way.outlook
        outlook.empty_since = inf
        self._facts.policy.placed(call, outlook)
        blocks = outlook.worker.blocks_for(call, way.output_tokens)
        return Assignment(call, outlook.worker, blocks, way.supply, way.seconds, way.prefill_seconds, way.hand_off)

    def _hold(self, call: Call, way: Way, found: Found, now: float) -> None:
        outlook = way.outlook
        uncached_tokens = max(0, call.prompt_tokens - way.supply.blocks * outlook.block_size)
        hold = Hold(outlook, _needs(call, way), uncached_tokens, way.cost, now, way.hand_off, found)
        call.hold = hold
        outlook.hold(call)
        self._holds.setdefault(call.model, deque()).append((call, hold))


def _needs(call: Call, way: Way) -> int:
    return way.outlook.needs(call, way.output_tokens)
