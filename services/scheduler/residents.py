"""Residents: which programs' contexts live in which worker's KV, and where there is room for one more.

A call that is let in or comes back takes its thread's context, at the worker where that is (else at its program's home),
before placement has chosen; placed elsewhere, the context moves along. When the call ends the context is idle: there is
one idle context for each thread of a program, that of its newest call. Every step is O(log n): sums are kept, idle
contexts are weighed again when due, and workers are kept in the order of their room.
"""

from collections.abc import Iterable
from math import ceil, inf

from services.common.agenda import Agenda
from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger, Row, Thread
from services.scheduler.pool_events import Role
from services.scheduler.records import Call, Program, Worker

_GRID_SECONDS = 0.25
"""Contexts are weighed again on this grid, so that a wake-up serves many."""


class Residents:
    """Bounded by the live calls, by one idle context for each thread of a live program, and by the workers."""

    def __init__(self, policy: Admission) -> None:
        self.policy = policy
        self._ledgers: dict[str, Ledger] = {}
        self._programs: dict[tuple[str, str], Row] = {}
        """By (program, model)."""
        self._idle: dict[str, dict[Thread, Context]] = {}
        self._looks: Agenda[Context] = Agenda()
        """When to weigh idle contexts again."""
        self._rooms: dict[str, Agenda[str]] = {}
        """By model, its open workers, the roomiest first."""
        self._rests: dict[str, Agenda[str]] = {}
        """By model, its open workers that run nothing: when each has had its patience."""
        self._touched: dict[str, dict[str, None]] = {}
        """By model, workers whose room has changed since they were ordered."""

    def ledgers(self) -> Iterable[Ledger]:
        """All."""
        return self._ledgers.values()

    def join(self, worker: Worker, now: float) -> None:
        """A worker came."""
        about = worker.description
        ledger = Ledger(worker, rested_since=now, adjusted_at=now)
        self._ledgers[about.worker_id] = ledger
        self.change(about.worker_id, now)
        for call in worker.placed.values():
            self.place(call, worker, now)

    def change(self, worker_id: str, now: float) -> None:
        """The worker drains, has another role, or neither any more: where contexts cannot stay, idle ones go."""
        ledger = self._ledgers[worker_id]
        ledger.open = not ledger.worker.load.draining and ledger.worker.description.role is not Role.PREFILL
        if not ledger.open:
            for context in [each for row in ledger.programs.values() for each in row if each.call is None]:
                self._remove(context, now)
        self._changed(ledger, now)

    def leave(self, worker_id: str, now: float) -> None:
        """A worker is gone, and all contexts with it."""
        ledger = self._ledgers[worker_id]
        ledger.open = False
        for context in [each for row in ledger.programs.values() for each in row]:
            context.program.home = ""
            self._remove(context, now)
        self._order(ledger.model, now)
        self._rooms[ledger.model].discard(worker_id)
        self._rests[ledger.model].discard(worker_id)
        del self._ledgers[worker_id]

    def admitted(self, program: Program, model: str) -> bool:
        """It has a context at some worker of the model: holds KV, or has a call that runs or is about to."""
        return (program.program_id, model) in self._programs

    def sent_off(self, call: Call, now: float) -> bool:
        program = call.program
        row = self._programs[program.program_id, call.model]
        if any(context.call is not None for context in row):
            return False
        ledger = next(iter(row)).ledger
        blocks = ledger.blocks_for(call.prompt_tokens + call.expected_output)
        own = sum(context.own_blocks for context in row if context.ledger is ledger)
        if not self.policy.crowded(ledger, blocks - own):
            return False
        newest = max(((next(iter(each)).program.admitted, name) for name, each in ledger.programs.items()))
        if newest[1] != program.program_id:
            return False
        for context in list(row):
            self._remove(context, now)
        return True

    def expect(self, call: Call, now: float) -> None:
        """The call is about to run: its context counts in full, somewhere."""
        if call.context is not None:
            return
        thread = (call.agent, call.thread)
        context = self._idle.get(call.program.program_id, {}).get(thread)
        if context is not None and context.ledger.model == call.model:
            self._wake(context, call, now)
        elif (ledger := self._home(call) or self._roomiest(call.model, now)) is not None:
            self._enter(Context(call.program, thread, ledger, call), now)
        else:
            return
        self._measure(call, call.prompt_tokens + call.expected_output, now)

    def place(self, call: Call, worker: Worker, now: float) -> None:
        """The call was placed at the worker, or is said to run there. One that is only prefilled leaves nothing."""
        ledger = self._ledgers[worker.worker_id]
        if call.hand_off:
            return
        call.program.home = worker.worker_id
        self.expect(call, now)
        context = call.context
        if context is None:
            context = Context(call.program, (call.agent, call.thread), ledger, call)
            self._enter(context, now)
        elif context.ledger is not ledger:
            self._remove(context, now)
            context = Context(call.program, context.thread, ledger, call)
            self._enter(context, now)
        context.ran = True
        self._measure(call, call.prompt_tokens + call.expected_output, now)

    def rest(self, call: Call, tokens: int, now: float) -> None:
        """The call ended with so many tokens (0: it did not run to its end): its context is idle."""
        context = call.context
        if context is None:
            return
        if tokens:
            self._measure(call, tokens, now)
        program, ledger = context.program, context.ledger
        older = self._idle.get(program.program_id, {}).get(context.thread)
        if older is not None:
            self._remove(older, now)
        if not context.ran or not ledger.open or program.ending:
            self._remove(context, now)
            return
        call.context = None
        self._idle.setdefault(program.program_id, {})[context.thread] = context
        context.idle_since, context.returns = now, call.expected.returns
        ledger.turn(context, None)
        ledger.pausable.set(context, self.policy.pause_order(context))
        self._weigh(context, now)
        self._changed(ledger, now)

    def release(self, program: Program, now: float) -> list[str]:
        """The program makes no more calls, or those that run are its last: strike off what is idle; the models."""
        contexts = list(self._idle.get(program.program_id, {}).values())
        for context in contexts:
            self._remove(context, now)
        return [context.ledger.model for context in contexts]

    def room_for(self, call: Call, now: float) -> Ledger | None:
        """A worker that the call's program may move in at: its last one, else the one with most room."""
        roomiest = self._roomiest(call.model, now)
        for ledger in (self._home(call), roomiest):
            if ledger is not None and self._fits(call, ledger):
                return ledger
        rests = self._rests.get(call.model)
        due = None if rests is None else rests.next()
        return self._ledgers[rests.first() or ""] if rests is not None and due is not None and due <= now else None

    def closed(self, model: str, now: float) -> bool:
        """No worker of the model keeps contexts: it has none, or they drain or are for prefill."""
        return self._roomiest(model, now) is None

    def refresh(self, now: float, limit: int) -> None:
        """Weigh again what is due, at most so many."""
        for context in self._looks.pop_due(now, limit):
            self._weigh(context, now)

    def settle(self, now: float) -> None:
        """Send off idle contexts where there are too many."""
        if not self.policy.bounded:
            self._touched.clear()
        for model in list(self._touched):
            self._order(model, now)

    def next_due(self, models: Iterable[str]) -> float:
        """When there may be more room at workers of the models."""
        dues = [due for model in models if model in self._rests and (due := self._rests[model].next()) is not None]
        look = self._looks.next()
        return min(dues if look is None else [*dues, look], default=inf)

    def overflow_blocks(self, worker_id: str, program_id: str, blocks: int, now: float) -> float:
        """By how much the worker's residents would pass its KV if so many blocks of the program were there."""
        ledger = self._ledgers[worker_id]
        own = ledger.programs.get(program_id, {})
        others = ledger.taken_blocks - sum(each.own_blocks * each.weight for each in own)
        return max(0.0, others + blocks - ledger.num_blocks)

    def _home(self, call: Call) -> Ledger | None:
        ledger = self._ledgers.get(call.program.home)
        return ledger if ledger is not None and ledger.open and ledger.model == call.model else None

    def _roomiest(self, model: str, now: float) -> Ledger | None:
        if not self.policy.bounded:
            return None
        self._order(model, now)
        worker_id = self._rooms[model].first()
        return None if worker_id is None else self._ledgers[worker_id]

    def _fits(self, call: Call, ledger: Ledger) -> bool:
        blocks = ledger.blocks_for(call.prompt_tokens + call.expected_output)
        blocks -= min(blocks, ledger.shared_blocks(call.program, ledger.marks(call.block_hashes)))
        return self.policy.need(call, blocks) <= self.policy.room(ledger)

    def _measure(self, call: Call, tokens: float, now: float) -> None:
        context = call.context
        assert context is not None
        ledger = context.ledger
        ledger.resize(context, ledger.blocks_for(tokens), ledger.marks(call.block_hashes))
        self._changed(ledger, now)

    def _enter(self, context: Context, now: float) -> None:
        context.ledger.enter(context)
        self._programs.setdefault((context.program.program_id, context.ledger.model), {})[context] = None
        if context.call is not None:
            context.call.context = context
        self._changed(context.ledger, now)

    def _remove(self, context: Context, now: float) -> None:
        """Off its ledger and out of every account."""
        ledger = context.ledger
        ledger.leave(context)
        key = (context.program.program_id, ledger.model)
        del self._programs[key][context]
        if not self._programs[key]:
            del self._programs[key]
        if context.call is not None:
            context.call.context = None
        else:
            self._unidle(context)
        self._changed(ledger, now)

    def _wake(self, context: Context, call: Call, now: float) -> None:
        self._unidle(context)
        context.ledger.turn(context, call)
        call.context = context
        self._changed(context.ledger, now)

    def _unidle(self, context: Context) -> None:
        program_id = context.program.program_id
        idle = self._idle.get(program_id, {})
        if idle.get(context.thread) is context:
            del idle[context.thread]
        if not idle:
            self._idle.pop(program_id, None)
        self._looks.discard(context)
        context.ledger.pausable.discard(context)

    def _weigh(self, context: Context, now: float) -> None:
        weighed = self.policy.weigh(context, now)
        if weighed is None:
            self._remove(context, now)
            return
        weight, again = weighed
        if weight != context.weight:
            context.ledger.turn(context, None, weight)
            self._changed(context.ledger, now)
        if again < inf:
            self._looks.set(context, ceil(max(again, now + 1e-9) / _GRID_SECONDS) * _GRID_SECONDS)

    def _changed(self, ledger: Ledger, now: float) -> None:
        """Something on the ledger did: put it down to be ordered, and keep the account of its rest."""
        self._touched.setdefault(ledger.model, {})[ledger.worker_id] = None
        rests = self._rests.setdefault(ledger.model, Agenda())
        if ledger.num_live:
            ledger.rested_since = inf
            rests.discard(ledger.worker_id)
            return
        ledger.rested_since = min(ledger.rested_since, now)
        patience = self.policy.patience_seconds if ledger.programs else 0.0
        if ledger.open:
            rests.set(ledger.worker_id, ledger.rested_since + patience)
        else:
            rests.discard(ledger.worker_id)

    def _order(self, model: str, now: float) -> None:
        """Put in order the workers of the model that were touched."""
        touched = self._touched.get(model)
        rooms = self._rooms.setdefault(model, Agenda())
        while touched:
            worker_id, _ = touched.popitem()
            ledger = self._ledgers[worker_id]
            while self.policy.excess(ledger) and (order := ledger.pausable.next()) is not None:
                for context in ledger.pausable.pop_due(order, 1):
                    self._remove(context, now)
            if 0 < self.policy.period_seconds <= now - ledger.adjusted_at:
                self.policy.adjust(ledger, now)
                ledger.adjusted_at = now
            if ledger.open:
                rooms.set(worker_id, -self.policy.room(ledger))
            else:
                rooms.discard(worker_id)
            touched.pop(worker_id, None)
