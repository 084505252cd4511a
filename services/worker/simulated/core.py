"""The simulated engine's core: continuous batching over paged blocks, a step at a time, as vLLM's scheduler does it.

A step runs every decoding call for one token and spends the rest of the token budget on prefill chunks, of running
calls first and then of waiting ones in order of (priority, arrival). A waiting call starts when its whole prompt fits;
a running one that finds no free block preempts the last of that order, which gives its blocks back and prefills again
later. Blocks are named in the prefix cache when the step that fills them begins. A step begins as soon as there is
work and lasts what `step_seconds` says; what is submitted meanwhile joins the next one.

Contract: `Core` of services.common.driver. Each submitted call ends in exactly one `Progress` with a receipt. The core
decides when tokens appear and how many; which they are is the caller's business.
"""

import heapq
from collections.abc import Callable
from typing import assert_never

from services.worker.simulated.blocks import BlockPool
from services.worker.simulated.call import Call
from services.worker.simulated.events import Aborted, Counters, End, Event, Progress, Report, Shape, Submitted
from services.worker.simulated.table import BlockTable

StepSeconds = Callable[[int, int, int, float], float]
"""(sequences, tokens, decode context, prefill pairs) -> seconds; `Profile.step_seconds` is one."""

_EARLY_SECONDS = 0.001
"""A timer may fire so much too early: some event loops round to milliseconds."""
_SMOOTHING = 0.1


class Core:
    """See the module."""

    def __init__(self, shape: Shape, step_seconds: StepSeconds) -> None:
        assert shape.max_num_seqs <= shape.max_num_batched_tokens
        self._shape = shape
        self._cost = step_seconds
        self._pool = BlockPool(shape.num_blocks)
        self._calls: dict[int, Call] = {}
        self._waiting: list[tuple[tuple[int, int], Call]] = []
        self._prefilling: dict[int, Call] = {}
        self._decoding: dict[int, Call] = {}
        self._context = 0
        """Sum of `num_tokens` over the decoding calls."""
        self._chunks: list[tuple[Call, int]] = []
        """Prefill of the current step."""
        self._tight: list[Call] = []
        """Decoding calls that need another block before the next step."""
        self._stuck: tuple[Call | None, int] = (None, 0)
        """The first waiting call, when it did not fit, and the free blocks then."""
        self._due: float | None = None
        self._duration = 0.0
        self._num_submitted = self._num_ended = self._num_steps = self._num_preemptions = 0
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._decode_seconds = self._prefill_speed = 0.0

    def handle(self, event: Event, now: float) -> list[Report]:
        match event:
            case Submitted():
                return self._submit(event, now)
            case Aborted():
                return self._abort(event.key, now)
            case _:
                assert_never(event)

    def tick(self, now: float) -> list[Report]:
        if self._due is None or now < self._due - _EARLY_SECONDS:
            return []
        ended = self._due
        progress = self._advance(ended)
        # The next step begins where this one ended, however late the timer came, so that lateness does not add up;
        # but a process that lost more than a step has lost it for good.
        self._begin(max(ended, now - self._duration))
        return [self._report(progress)]

    def next_tick(self) -> float | None:
        return self._due

    def _submit(self, event: Submitted, now: float) -> list[Report]:
        assert event.key not in self._calls
        self._num_submitted += 1
        table = BlockTable(self._pool, self._shape.block_size, event.hashes)
        total = event.prompt_tokens + event.output_tokens
        order = (event.priority, self._num_submitted)
        call = Call(event, event.key, total, order, now, event.prompt_tokens, table)
        if total > self._shape.num_blocks * self._shape.block_size:
            self._num_ended += 1
            return [self._report([Progress(event.key, 0, call.receipt(End.TOO_LONG, now))])]
        self._calls[event.key] = call
        heapq.heappush(self._waiting, (call.order, call))
        if self._due is not None:
            return []
        self._begin(now)
        return [self._report([])]

    def _abort(self, key: int, now: float) -> list[Report]:
        call = self._calls.get(key)
        if call is None:
            return []
        if key in self._prefilling or key in self._decoding:
            self._stop(call)
        else:
            self._waiting.remove((call.order, call))
            heapq.heapify(self._waiting)
        return [self._report([self._end(call, End.ABORTED, now)])]

    # The end of a step.

    def _advance(self, now: float) -> list[Progress]:
        """Account for the step that ended. The loop over the decoding calls is all that most calls cost."""
        due: list[Call] = []
        for call in self._decoding.values():
            tokens = call.num_tokens + 1
            call.num_tokens = tokens
            if tokens >= call.alarm:
                due.append(call)
        self._context += len(self._decoding)
        self._generated_tokens += len(self._decoding)
        for call, new in self._chunks:
            if self._prefilling.get(call.key) is call:
                call.num_computed += new
                if call.num_computed == call.num_tokens:
                    self._start_decoding(call, now)
                    due.append(call)
        progress: list[Progress] = []
        for call in due:
            self._attend(call, now, progress)
        return progress

    def _start_decoding(self, call: Call, now: float) -> None:
        del self._prefilling[call.key]
        self._decoding[call.key] = call
        call.num_tokens += 1
        self._context += call.num_tokens
        self._generated_tokens += 1
        if call.first_token_at is None:
            call.first_token_at = now

    def _attend(self, call: Call, now: float, progress: list[Progress]) -> None:
        """Report, end or enlarge a call whose alarm rang."""
        if call.num_tokens == call.total:
            self._stop(call)
            progress.append(self._end(call, End.DONE, now))
            return
        generated = call.generated
        if generated >= call.next_output:
            progress.append(Progress(call.key, generated, None))
            call.next_output = generated + call.submitted.interval
        if call.num_tokens > call.table.room:
            self._tight.append(call)
        else:
            call.set_alarm()

    def _end(self, call: Call, end: End, now: float) -> Progress:
        del self._calls[call.key]
        self._num_ended += 1
        return Progress(call.key, call.generated, call.receipt(end, now))

    # The beginning of a step.

    def _begin(self, now: float) -> None:
        """Form a batch and set when it ends; no batch, no timer."""
        preemptions = self._num_preemptions
        tight, self._tight = self._tight, []
        for call in tight:
            if call.key in self._decoding and self._grow(call, call.num_tokens):
                call.set_alarm()
        chunks = self._chunks = []
        budget = self._shape.max_num_batched_tokens - len(self._decoding)
        for call in list(self._prefilling.values()):
            new = min(call.num_tokens - call.num_computed, budget)
            if new and call.key in self._prefilling and self._grow(call, call.num_computed + new):
                chunks.append((call, new))
                budget -= new
        if self._num_preemptions == preemptions:
            self._admit(budget, now)
        else:
            chunks[:] = [(call, new) for call, new in chunks if call.key in self._prefilling]
        self._set_due(now)

    def _admit(self, budget: int, now: float) -> None:
        slots = self._shape.max_num_seqs - len(self._decoding) - len(self._prefilling)
        while self._waiting and budget > 0 and slots > 0:
            call = self._waiting[0][1]
            if self._stuck[0] is call and self._pool.num_free <= self._stuck[1]:
                return
            cached = call.table.begin(call.num_tokens)
            if cached is None:
                self._stuck = (call, self._pool.num_free)
                return
            heapq.heappop(self._waiting)
            cached = max(cached, call.brought_tokens(self._shape.block_size))
            call.num_computed = cached
            self._prefilling[call.key] = call
            if call.started_at is None:
                call.started_at = now
                call.cached_tokens = min(cached, call.submitted.prompt_tokens)
                self._prompt_tokens += call.submitted.prompt_tokens
                self._cached_tokens += call.cached_tokens
            new = min(call.num_tokens - cached, budget)
            call.table.grow(cached + new)
            self._chunks.append((call, new))
            budget -= new
            slots -= 1
        self._stuck = (None, 0)

    def _set_due(self, now: float) -> None:
        if not self._decoding and not self._chunks:
            self._due = None
            return
        num_decoding, prefill = len(self._decoding), sum(new for _, new in self._chunks)
        pairs = sum(new * call.num_computed + new * new / 2 for call, new in self._chunks)
        num_seqs = num_decoding + len(self._chunks)
        seconds = self._cost(num_seqs, num_decoding + prefill, self._context, pairs) / self._shape.speed
        self._num_steps += 1
        self._duration = seconds
        self._due = now + seconds
        if prefill:
            self._prefill_speed = _smooth(self._prefill_speed, prefill / seconds)
        else:
            self._decode_seconds = _smooth(self._decode_seconds, seconds)

    def _grow(self, call: Call, num_tokens: int) -> bool:
        """Give a running call room for `num_tokens`, preempting others. False when it had to be preempted itself."""
        while not call.table.grow(num_tokens):
            running = [*self._decoding.values(), *self._prefilling.values()]
            last = max(running, key=lambda other: other.order)
            self._preempt(last)
            if last is call:
                return False
        return True

    def _stop(self, call: Call) -> None:
        """Take a running call out of the batch and free its blocks."""
        if self._decoding.pop(call.key, None) is None:
            del self._prefilling[call.key]
        else:
            self._context -= call.num_tokens
            call.table.name(call.num_tokens - 1)
        call.table.free()
        call.num_computed = 0

    def _preempt(self, call: Call) -> None:
        self._stop(call)
        call.num_preemptions += 1
        self._num_preemptions += 1
        heapq.heappush(self._waiting, (call.order, call))

    def _report(self, progress: list[Progress]) -> Report:
        counters = Counters(
            len(self._decoding) + len(self._prefilling),
            len(self._waiting),
            self._pool.num_used / self._shape.num_blocks,
            self._num_preemptions,
            self._prompt_tokens,
            self._cached_tokens,
            self._generated_tokens,
            self._num_steps,
            self._decode_seconds,
            self._prefill_speed,
        )
        return Report(progress, *self._pool.drain(), counters)

    def check(self) -> None:
        """Assert the invariants."""
        running = [*self._decoding.values(), *self._prefilling.values()]
        assert len(running) <= self._shape.max_num_seqs
        tokens = len(self._decoding) + sum(new for _, new in self._chunks)
        assert tokens <= self._shape.max_num_batched_tokens
        assert self._context == sum(call.num_tokens for call in self._decoding.values())
        live = {call.key for call in (*running, *(call for _, call in self._waiting))}
        assert live == self._calls.keys()
        assert len(running) + len(self._waiting) == len(live)
        assert self._num_submitted == self._num_ended + len(live)
        assert self._due is not None or not live
        uses: dict[int, int] = {}
        private = 0
        for call in running:
            named = list(call.table.named())
            private += call.table.num_held - len(named)
            for block in named:
                uses[block] = uses.get(block, 0) + 1
            assert call.num_tokens < call.total
        assert all(call.table.num_held == 0 for _, call in self._waiting)
        assert all(call.num_tokens <= call.table.room for call in self._decoding.values())
        self._pool.check(uses, private)


def _smooth(average: float, value: float) -> float:
    return value if average == 0 else average + _SMOOTHING * (value - average)
