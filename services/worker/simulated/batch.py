"""Which calls run in the simulated engine, and what each step computes of them. Knows no durations.

Of the calls that wait or run, `form` makes the next step's batch: it gives the decoding ones room for their newest
token, spends what is left of the token budget on prefill chunks, and lets waiting calls in.
"""

from services.worker.preemption import Preemption
from services.worker.simulated.blocks import BlockPool
from services.worker.simulated.call import Call
from services.worker.simulated.decoding import Decoding
from services.worker.simulated.events import Shape
from services.worker.simulated.link import Link
from services.worker.simulated.meter import Meter
from services.worker.simulated.waiting import Waiting


class Batch:
    """Every live call is in just one of `waiting`, `prefilling` and `decoding`."""

    def __init__(self, shape: Shape, meter: Meter) -> None:
        self.pool = BlockPool(shape.num_blocks)
        self.waiting = Waiting()
        self.prefilling: dict[int, Call] = {}
        """Calls whose KV is still being brought among them."""
        self.decoding = Decoding(shape.block_size)
        self.chunks: list[tuple[Call, int]] = []
        """Prefill of the step that runs."""
        self._shape = shape
        self._meter = meter
        self._link = Link(shape.load_tokens_per_second * shape.speed)
        self._settled = True
        """Forming this batch once more would let nobody in."""

    @property
    def num_running(self) -> int:
        return len(self.decoding) + len(self.prefilling)

    def num_tokens(self, call: Call) -> int:
        """Prompt and output so far of a live call."""
        return self.decoding.num_tokens(call) if call.key in self.decoding else call.num_tokens

    def form(self, now: float) -> None:
        """Form the batch of a step that begins at `now`; it may be empty."""
        preemptions = self._meter.num_preemptions
        for call in list(self.decoding.growing()):
            if call.key in self.decoding:
                self._grow(call, self.decoding.num_tokens(call))
        chunks = self.chunks = []
        budget = self._shape.max_num_batched_tokens - len(self.decoding)
        for call in list(self.prefilling.values()):
            new = min(call.num_tokens - call.num_computed, budget) if call.ready_at <= now else 0
            if new and call.key in self.prefilling and self._grow(call, call.num_computed + new):
                chunks.append((call, new))
                budget -= new
        self._settled = self._meter.num_preemptions == preemptions
        if self._settled:
            self._admit(budget, now)
        else:
            chunks[:] = [(call, new) for call, new in chunks if call.key in self.prefilling]

    def ready_at(self, now: float) -> float | None:
        """When the next call has its KV that is still being brought at `now`; None: there is no such call."""
        if not self.prefilling:
            return None
        return min((call.ready_at for call in self.prefilling.values() if call.ready_at > now), default=None)

    def num_alike(self) -> int:
        """How many steps from this one on will be of the same make-up, unless a call comes, goes or is ready: at least
        one. Only the last of them makes any call worth a look."""
        steps = self.decoding.quiet_steps() if self._settled else 1
        if self.chunks:
            (call, new), *others = self.chunks
            whole = not others and new == self._shape.max_num_batched_tokens - len(self.decoding)
            alike = (call.num_tokens - call.num_computed) // new if whole else 1
            steps = alike if steps is None else min(steps, alike)
        assert steps is not None, "a call that decodes has an alarm"
        while steps > 1 and not self._roomy(steps - 1):
            steps //= 2
        return steps

    def repeat(self, steps: int) -> None:
        """So many steps are over, each followed by one alike: see `num_alike`."""
        # Prefill takes blocks each step, decoding only now and then.
        taken = range(1, steps + 1) if self.chunks else self.decoding.growths(steps)
        done = 0
        for step in taken:
            self.decoding.skip(step - done)
            for call in self.decoding.growing():
                call.table.grow(self.decoding.num_tokens(call))
            for call, new in self.chunks:
                call.num_computed += new
                call.table.grow(call.num_computed + new)
            done = step
        self.decoding.skip(steps - done)

    def prefilled(self) -> list[Call]:
        """The step is over: account for its chunks. Whose prompts are whole with that, now decoding."""
        whole: list[Call] = []
        for call, new in self.chunks:
            if self.prefilling.get(call.key) is call:
                call.num_computed += new
                if call.num_computed == call.num_tokens:
                    del self.prefilling[call.key]
                    call.num_tokens += 1
                    self.decoding.add(call)
                    whole.append(call)
        return whole

    def stop(self, call: Call) -> None:
        """Take out a call, and free its blocks if it ran."""
        if call.key in self.decoding:
            self.decoding.remove(call)
            call.num_computed = call.num_tokens - 1
            call.table.name(call.num_computed)
        elif self.prefilling.pop(call.key, None) is None:
            self.waiting.remove(call)
            return
        call.table.free()

    def prioritize(self, call: Call, priority: int) -> None:
        """Set a call's priority, wherever it is."""
        waits = call.key not in self.decoding and call.key not in self.prefilling
        if waits:
            self.waiting.remove(call)
        call.priority = priority
        if waits:
            self.waiting.push(call)
        self.waiting.unstick()

    def _roomy(self, steps: int) -> bool:
        """Whether there are blocks for so many more steps like this one."""
        free = self.pool.num_free
        for call, new in self.chunks:
            free -= call.table.num_lacking(call.num_computed + (steps + 1) * new)
        most = len(self.decoding) * (steps // self._shape.block_size + 1)
        return most <= free or self.decoding.num_growing(steps) <= free

    def _admit(self, budget: int, now: float) -> None:
        """Let waiting calls in, in order. What keeps the first of them out is remembered, for it will often stay so."""
        while self.waiting and budget > 0:
            slots = self._shape.max_num_seqs - self.num_running
            if self.waiting.stuck(self.pool.num_free, slots):
                return
            call = self.waiting.first
            cached = self._fit(call, slots)
            if cached is None:
                self.waiting.stick(self.pool.num_free, self._shape.max_num_seqs - self.num_running)
                return
            self.waiting.pop()
            self.prefilling[call.key] = call
            brought = max(cached, call.brought_tokens(self._shape.block_size))
            call.ready_at = self._link.ready_at(brought - cached, now) if brought > cached else now
            call.num_computed = brought
            if call.started_at is None:
                call.started_at = now
                call.cached_tokens = min(brought, call.submitted.prompt_tokens)
                self._meter.prompt_tokens += call.submitted.prompt_tokens
                self._meter.cached_tokens += call.cached_tokens
            if call.ready_at > now:
                call.table.reserve(brought)
                continue
            new = min(call.num_tokens - brought, budget)
            call.table.grow(brought + new)
            self.chunks.append((call, new))
            budget -= new

    def _fit(self, call: Call, slots: int) -> int | None:
        """Have a waiting call hold its cached prefix if there is room for it, or can be made: tokens of that prefix."""
        cached = call.table.begin(call.num_tokens) if slots > 0 else None
        if cached is not None or self._shape.preemption is None:
            return cached
        chosen = self._victims(call, self._shape.preemption, slots)
        for victim in chosen:
            self._preempt(victim)
        return call.table.begin(call.num_tokens) if chosen else None

    def _victims(self, call: Call, preemption: Preemption, slots: int) -> list[Call]:
        """Whom to preempt so that a call gets a slot and blocks, the least urgent first; nobody if it would not do."""
        worst = call.priority + preemption.margin
        able = [other for other in self.decoding.calls.values() if other.seasoned and other.priority >= worst]
        able.sort(key=lambda other: other.order, reverse=True)
        lacking = call.table.num_missing(call.num_tokens)
        for count, victim in enumerate(able, 1):
            lacking -= victim.table.num_sole()
            if lacking <= 0 and slots + count > 0:
                return able[:count]
        return []

    def _grow(self, call: Call, num_tokens: int) -> bool:
        """Give a running call room for `num_tokens`, preempting others. False when it had to be preempted itself."""
        while not call.table.grow(num_tokens):
            running = [*self.decoding.calls.values(), *self.prefilling.values()]
            last = max(running, key=lambda other: other.order)
            self._preempt(last)
            if last is call:
                return False
        return True

    def _preempt(self, call: Call) -> None:
        self.stop(call)
        if self._shape.swap:
            call.brought = max(call.brought, call.num_computed)
        call.num_preemptions += 1
        self._meter.num_preemptions += 1
        self.waiting.push(call)

    def check(self) -> None:
        """Assert the invariants."""
        running = [*self.decoding.calls.values(), *self.prefilling.values()]
        assert len(running) <= self._shape.max_num_seqs
        tokens = len(self.decoding) + sum(new for _, new in self.chunks)
        assert tokens <= self._shape.max_num_batched_tokens
        uses: dict[int, int] = {}
        private = 0
        for call in running:
            named = call.table.named()
            private += call.table.num_held - len(named)
            for block in named:
                uses[block] = uses.get(block, 0) + 1
            assert self.num_tokens(call) < call.total
        assert all(call.table.num_held == 0 for call in self.waiting.calls)
        self.decoding.check()
        self.pool.check(uses, private)
