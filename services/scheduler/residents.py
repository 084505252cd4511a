"""Residents: which programs' contexts live in which worker's KV, and where there is room for one more.

A call that is let in or comes back takes its thread's context, at the worker where that is (else at its program's
home), before placement has chosen; placed elsewhere, the context moves along. When the call ends the context is idle:
there is one idle context for each thread of a program, that of its newest call. Every step is O(log n): sums are kept,
idle contexts are weighed again when due, and workers are kept in the order of their room.
"""

from collections.abc import Collection, Iterable
from math import ceil, inf

from services.common.agenda import Agenda
from services.common.laws import Law
from services.scheduler.admission import Admission
from services.scheduler.events import TokenUsage
from services.scheduler.ledger import Context, Ledger, Row, Thread
from services.scheduler.pool_events import Role
from services.scheduler.pools import Pools
from services.scheduler.records import Call, Program, Worker
from services.scheduler.rooms import Rooms

_GRID_SECONDS = 0.25
"""Contexts are weighed again on this grid, so that a wake-up serves many."""
_AT_ONCE = 32
"""Contexts that one event weighs again beside its own, at most."""


class Residents:
    """Bounded by the live calls, by one idle context for each thread of a live program, and by the workers."""

    def __init__(self, policy: Admission, pools: Pools, assumed_prefill_tokens_per_second: float) -> None:
        self.policy = policy
        self._pools = pools
        self._assumed_speed = assumed_prefill_tokens_per_second
        self._ledgers: dict[str, Ledger] = {}
        self._rooms = Rooms(policy)
        self._programs: dict[tuple[str, str], Row] = {}
        """By (program, model)."""
        self._idle: dict[str, dict[Thread, Context]] = {}
        self._looks: Agenda[Context] = Agenda()
        """When to weigh idle contexts again."""

    def ledgers(self) -> Iterable[Ledger]:
        """All."""
        return self._ledgers.values()

    def join(self, worker: Worker, now: float) -> None:
        """A worker came."""
        worker_id = worker.worker_id
        self._ledgers[worker_id] = Ledger(worker, rested_since=now, adjusted_at=now)
        self.change(worker_id, now)
        for call in worker.placed.values():
            self.place(call, worker, now)

    def change(self, worker_id: str, now: float) -> None:
        """The worker drains, has another role, or neither any more. Where contexts cannot stay, idle ones go."""
        ledger = self._ledgers[worker_id]
        ledger.open = not ledger.worker.load.draining and ledger.worker.description.role is not Role.PREFILL
        if not ledger.open:
            for context in [each for row in ledger.programs.values() for each in row if each.call is None]:
                self._remove(context, now)
        self._rooms.touch(ledger, now)

    def leave(self, worker_id: str, now: float) -> None:
        """A worker is gone, and all contexts with it."""
        ledger = self._ledgers.pop(worker_id)
        ledger.open = False
        for context in [each for row in ledger.programs.values() for each in row]:
            context.program.home = ""
            self._remove(context, now)
        self._rooms.leave(ledger)

    def admitted(self, program: Program, model: str) -> bool:
        """It has a context at some worker of the model: holds KV, or has a call that runs or is about to."""
        return (program.program_id, model) in self._programs

    def expect(self, call: Call, now: float) -> None:
        """The call is about to run: its context counts in full, somewhere."""
        if call.context is not None:
            return
        thread = (call.agent, call.thread)
        context = self._idle.get(call.program.program_id, {}).get(thread)
        if context is not None and context.ledger.model == call.model:
            self._forget_idle(context)
            context.ledger.turn(context, call)
            call.context = context
        elif (ledger := self._home(call) or self._roomiest(call.model)) is not None:
            self._enter(Context(call.program, thread, ledger, call))
        else:
            return
        self._measure(call, self.policy.reserves(call), now)

    def place(self, call: Call, worker: Worker, now: float) -> None:
        """The call was placed at the worker, or is said to run there. One that is only prefilled leaves nothing."""
        if call.hand_off:
            return
        ledger = self._ledgers[worker.worker_id]
        call.program.home = worker.worker_id
        self.expect(call, now)
        context = call.context
        if context is None or context.ledger is not ledger:
            if context is not None:
                self._remove(context, now)
            context = Context(call.program, (call.agent, call.thread), ledger, call)
            self._enter(context)
        context.ran = True
        self._measure(call, self.policy.reserves(call), now)

    def end(self, call: Call, usage: TokenUsage, now: float) -> None:
        """The call ran to its end."""
        context = call.context
        if context is None or not call.worker_id:
            return
        if usage.prompt_tokens:
            context.ledger.returned(context, usage.cached_tokens)
        context.kept_tokens = call.prompt_tokens - call.generated_tokens + usage.completion_tokens
        self._measure(call, context.kept_tokens, now)

    def rest(self, call: Call, now: float) -> None:
        """The call is over, or will not run: its context is idle."""
        context = call.context
        if context is None:
            return
        program, ledger = context.program, context.ledger
        older = self._idle.get(program.program_id, {}).get(context.thread)
        if older is not None:
            self._remove(older, now)
        if not context.ran or not ledger.open or program.ending:
            self._remove(context, now)
            return
        call.context = None
        self._idle.setdefault(program.program_id, {})[context.thread] = context
        context.idle_since, context.returns, context.foreseen = now, call.expected.returns, None
        ledger.turn(context, None)
        ledger.pausable.set(context, self.policy.pause_order(context))
        self._weigh(context, now)
        self._rooms.touch(ledger, now)

    def remeasure(self, call: Call, now: float) -> None:
        """Another output is expected of a call that waits."""
        if call.context is not None:
            self._measure(call, self.policy.reserves(call), now)

    def foresee(self, program_id: str, thread: str, agent: str, law: Law | None, now: float) -> list[str]:
        """From now on the thread's next call is expected by that law; None: again as when its last call ended. The
        models at whose workers there may be more room by it."""
        models: list[str] = []
        for name, context in list(self._idle.get(program_id, {}).items()):
            if name[1] == thread and (thread or name[0] == agent):
                foreseen = None if law is None else (law, now)
                if foreseen != context.foreseen:
                    context.foreseen = foreseen
                    self._weigh(context, now)
                    models.append(context.ledger.model)
        return models

    def release(self, program: Program, now: float) -> list[str]:
        """The program makes no more calls, or those that run are its last: strike off what is idle; the models."""
        contexts = list(self._idle.get(program.program_id, {}).values())
        for context in contexts:
            self._remove(context, now)
        return [context.ledger.model for context in contexts]

    def room_for(self, call: Call, now: float) -> Ledger | None:
        """A worker that the call's program may move in at: its last one, else the one with most room."""
        home, roomiest = self._home(call), self._roomiest(call.model)
        if home is not None and home is not roomiest and self._fits(call, home):
            return home
        if roomiest is not None and self._fits(call, roomiest):
            return roomiest
        return self._rooms.rested(call.model, now)

    def closed(self, model: str) -> bool:
        """No worker of the model keeps contexts: it has none, or they drain or are for prefill."""
        return self._roomiest(model) is None

    def refresh(self, now: float, limit: int = _AT_ONCE) -> None:
        """Weigh again what is due, at most so many; then send off idle contexts where there are too many."""
        for context in self._looks.pop_due(now, limit):
            self._weigh(context, now)
        if not self.policy.bounded:
            return
        for ledger in self._rooms.touched():
            if 0 < self.policy.period_seconds <= now - ledger.adjusted_at:
                self.policy.adjust(ledger, now)
                ledger.adjusted_at = now
            while self.policy.excess(ledger) and (context := ledger.pausable.first()) is not None:
                self._remove(context, now)

    def next_due(self, models: Collection[str]) -> float | None:
        """When there may be more room at workers of the models, for whose programs somebody waits."""
        if not models:
            return None
        dues = list(self._rooms.next_due(models))
        if (look := self._looks.next()) is not None:
            dues.append(look)
        return min(dues, default=None)

    def overflow_blocks(self, worker_id: str, program_id: str, blocks: int, now: float) -> float:
        """By how much the worker's residents would pass its KV if so many blocks of the program were there."""
        ledger = self._ledgers[worker_id]
        own = sum(each.own_blocks * each.weight for each in ledger.programs.get(program_id, {}))
        return max(0.0, ledger.taken_blocks - own + blocks - ledger.num_blocks)

    def _home(self, call: Call) -> Ledger | None:
        ledger = self._ledgers.get(call.program.home)
        return ledger if ledger is not None and ledger.open and ledger.model == call.model else None

    def _roomiest(self, model: str) -> Ledger | None:
        return self._rooms.roomiest(model) if self.policy.bounded else None

    def _fits(self, call: Call, ledger: Ledger) -> bool:
        room = self.policy.room(ledger)
        blocks = ledger.blocks_for(self.policy.reserves(call))
        if self.policy.need(call, blocks) <= room:
            return True
        if room <= 0:
            return False
        blocks -= min(blocks, ledger.prefixes.common(ledger.worker.marks(call)))
        return self.policy.need(call, blocks) <= room

    def _measure(self, call: Call, tokens: float, now: float) -> None:
        context = call.context
        assert context is not None
        ledger = context.ledger
        ledger.resize(context, ledger.blocks_for(tokens), ledger.worker.marks(call))
        self._rooms.touch(ledger, now)

    def _enter(self, context: Context) -> None:
        context.ledger.enter(context)
        self._programs.setdefault((context.program.program_id, context.ledger.model), {})[context] = None
        if context.call is not None:
            context.call.context = context

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
            self._forget_idle(context)
        self._rooms.touch(ledger, now)

    def _forget_idle(self, context: Context) -> None:
        program_id = context.program.program_id
        idle = self._idle[program_id]
        del idle[context.thread]
        if not idle:
            del self._idle[program_id]
        self._looks.discard(context)
        context.ledger.pausable.discard(context)

    def _weigh(self, context: Context, now: float) -> None:
        context.ledger.refill_seconds = self._refill_seconds(context.ledger.worker)
        weighed = self.policy.weigh(context, now)
        if weighed is None:
            self._remove(context, now)
            return
        weight, again = weighed
        if weight != context.weight:
            context.ledger.turn(context, None, weight)
            self._rooms.touch(context.ledger, now)
        if again < inf:
            self._looks.set(context, ceil(max(again, now + 1e-9) / _GRID_SECONDS) * _GRID_SECONDS)

    def _refill_seconds(self, worker: Worker) -> float:
        about = worker.description
        compute_seconds = about.block_size / (worker.load.prefill_tokens_per_second or self._assumed_speed)
        brought = self._pools.block_seconds(about.pool_id, about.kv_block_bytes, compute_seconds)
        return about.num_blocks * (compute_seconds if brought is None else min(compute_seconds, brought.load))
