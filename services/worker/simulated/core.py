"""The simulated engine's core: continuous batching over paged blocks, a step at a time, as vLLM's scheduler does it.

A step runs every decoding call for one token and spends the rest of the token budget on prefill chunks, of running
calls first and then of waiting ones in order of (priority, arrival). A waiting call starts when its whole prompt fits;
a running one that finds no free block preempts the last of that order, which gives its blocks back and prefills again
later. Blocks are named in the prefix cache when the step that fills them begins. A step begins as soon as there is
work and lasts what `step_seconds` says; what is submitted meanwhile joins the next one.

A *stride* is a run of steps through which nothing changes but that tokens become more. Its steps are accounted for when
it ends, or when an event cuts it short: then all is as if they had been single, and the one that runs is its last.

Contract: `Core` of services.common.driver. Each submitted call ends in exactly one `Progress` with a receipt. The core
decides when tokens appear and how many; which they are is the caller's business.
"""

from collections.abc import Callable
from typing import assert_never

from services.worker.simulated.batch import Batch
from services.worker.simulated.call import NEVER, Call
from services.worker.simulated.events import (
    Aborted,
    Counters,
    End,
    Event,
    Prioritized,
    Progress,
    Report,
    Shape,
    Submitted,
)
from services.worker.simulated.meter import Meter
from services.worker.simulated.stride import Stride
from services.worker.simulated.table import BlockTable

StepSeconds = Callable[[int, int, int, float], float]
"""(sequences, tokens, decode context, prefill pairs) -> seconds, affine in the last two: `Profile.step_seconds`."""

_EARLY_SECONDS = 0.001
"""A timer may fire so much too early: some event loops round to milliseconds."""


class Core:
    """See the module."""

    def __init__(self, shape: Shape, step_seconds: StepSeconds) -> None:
        assert shape.max_num_seqs <= shape.max_num_batched_tokens
        self._shape = shape
        self._cost = step_seconds
        self._meter = Meter()
        self._batch = Batch(shape, self._meter)
        self._calls: dict[int, Call] = {}
        self._stride: Stride | None = None
        """None: no step runs."""
        self._due: float | None = None
        self._num_submitted = self._num_ended = 0

    def handle(self, event: Event, now: float) -> list[Report]:
        self._catch_up(now)
        match event:
            case Submitted():
                return self._submit(event, now)
            case Aborted():
                return self._abort(event.key, now)
            case Prioritized():
                return self._prioritize(event.key, event.priority)
            case _:
                assert_never(event)

    def tick(self, now: float) -> list[Report]:
        due, stride = self._due, self._stride
        if due is None or now < due - _EARLY_SECONDS:
            return []
        progress: list[Progress] = []
        last = 0.0
        if stride is not None:
            last = stride.duration(stride.num_steps - 1)
            self._settle(stride, stride.num_steps - 1)
            progress = self._end_step(due)
        # The next step begins where this one ended, however late the timer came, so that lateness does not add up;
        # but a process that lost more than a step has lost it for good.
        self._begin(max(due, now - last))
        return [self._report(progress)]

    def next_tick(self) -> float | None:
        return self._due

    def _submit(self, event: Submitted, now: float) -> list[Report]:
        assert event.key not in self._calls
        self._num_submitted += 1
        table = BlockTable(self._batch.pool, self._shape.block_size, event.hashes)
        total = event.prompt_tokens + event.output_tokens
        prompt, number = event.prompt_tokens, self._num_submitted
        call = Call(event, event.key, total, event.priority, number, now, prompt, event.brought_tokens, table)
        if total > self._shape.num_blocks * self._shape.block_size:
            self._num_ended += 1
            return [self._report([Progress(event.key, 0, call.receipt(End.TOO_LONG, now))])]
        self._calls[event.key] = call
        self._set_quantum(call)
        self._batch.waiting.push(call)
        if self._stride is not None:
            return []
        self._begin(now)
        return [self._report([])]

    def _abort(self, key: int, now: float) -> list[Report]:
        call = self._calls.get(key)
        if call is None:
            return []
        self._batch.stop(call)
        return [self._report([self._end(call, End.ABORTED, now)])]

    def _prioritize(self, key: int, priority: int) -> list[Report]:
        call = self._calls.get(key)
        if call is not None and call.priority != priority:
            self._batch.prioritize(call, priority)
            self._set_quantum(call)
            if key in self._batch.decoding:
                self._batch.decoding.set_alarm(call, call.next_alarm())
        return []

    def _set_quantum(self, call: Call) -> None:
        """Begin the quantum of a call's priority."""
        preemption = self._shape.preemption
        quantum = None if preemption is None else preemption.quantum(call.priority)
        call.quantum_end = NEVER if quantum is None else self._batch.num_tokens(call) + quantum

    # The end of a step.

    def _catch_up(self, now: float) -> None:
        """Cut the stride short: account for the steps that are over, and have the one that runs be the last."""
        stride = self._stride
        if stride is not None and stride.num_steps > 1:
            completed = min(stride.completed(now), stride.num_steps - 1)
            self._settle(stride, completed)
            self._stride = stride.cut(completed)
            self._due = self._stride.due

    def _settle(self, stride: Stride, steps: int) -> None:
        """Account for the stride's first steps, which are over, and for the beginning of the next one."""
        if steps:
            self._batch.repeat(steps)
            self._meter.generated_tokens += steps * len(self._batch.decoding)
            self._meter.begin(stride, steps, sum(new for _, new in self._batch.chunks), after=1)

    def _end_step(self, now: float) -> list[Progress]:
        """Account for a step that is over and in which something may have happened."""
        progress: list[Progress] = []
        self._meter.generated_tokens += len(self._batch.decoding)
        for call in self._batch.decoding.advance():
            self._attend(call, now, progress)
        for call in self._batch.prefilled():
            self._meter.generated_tokens += 1
            if call.first_token_at is None:
                call.first_token_at = now
            if self._shape.preemption is not None:
                call.seasoned, call.seasoned_at = False, call.num_tokens + self._shape.preemption.min_tokens - 1
            self._attend(call, now, progress)
        return progress

    def _attend(self, call: Call, now: float, progress: list[Progress]) -> None:
        """Report or end a decoding call, or whatever its alarm rang for."""
        num_tokens = self._batch.num_tokens(call)
        if num_tokens == call.total:
            self._batch.stop(call)
            progress.append(self._end(call, End.DONE, now))
            return
        generated = num_tokens - call.submitted.prompt_tokens
        if generated >= call.next_output:
            progress.append(Progress(call.key, generated, None))
            call.next_output = generated + call.submitted.interval
        if num_tokens >= call.seasoned_at:
            call.seasoned, call.seasoned_at = True, NEVER
            self._batch.waiting.unstick()
        if num_tokens >= call.quantum_end:
            self._batch.prioritize(call, call.priority + 1)
            self._set_quantum(call)
        self._batch.decoding.set_alarm(call, call.next_alarm())

    def _end(self, call: Call, end: End, now: float) -> Progress:
        del self._calls[call.key]
        self._num_ended += 1
        return Progress(call.key, call.generated, call.receipt(end, now))

    # The beginning of a step.

    def _begin(self, now: float) -> None:
        """Form a batch and set when it ends. Without one there is no timer, but for what is still being brought."""
        batch = self._batch
        batch.form(now)
        ready_at = batch.ready_at(now)
        decoding, chunks = len(batch.decoding), batch.chunks
        if not decoding and not chunks:
            self._stride, self._due = None, ready_at
            return
        prefill, pairs, growing = 0, 0.0, 0
        for call, new in chunks:
            prefill += new
            pairs += new * call.num_computed + new * new / 2
            growing += new * new
        seqs, tokens, context = decoding + len(chunks), decoding + prefill, batch.decoding.context
        speed, leap = self._shape.speed, self._shape.leap_seconds
        first = self._cost(seqs, tokens, context, pairs) / speed
        steps = batch.num_alike() if leap > first else 1
        if steps > 1:
            growth = self._cost(seqs, tokens, context + decoding, pairs + growing) / speed - first
            until = now + leap
            until = until if ready_at is None else min(until, ready_at)
            self._stride = Stride(now, first, growth, steps).shortened(until)
        else:
            self._stride = Stride(now, first)
        self._due = self._stride.due
        self._meter.begin(self._stride, 1, prefill)

    def _report(self, progress: list[Progress]) -> Report:
        batch, meter = self._batch, self._meter
        counters = Counters(
            batch.num_running,
            len(batch.waiting),
            batch.pool.num_used / self._shape.num_blocks,
            meter.num_preemptions,
            meter.prompt_tokens,
            meter.cached_tokens,
            meter.generated_tokens,
            meter.num_steps,
            meter.step_seconds,
            meter.prefill_tokens_per_second,
        )
        return Report(progress, *batch.pool.drain(), counters)

    def check(self) -> None:
        """Assert the invariants."""
        batch = self._batch
        waiting = {call.key for call in batch.waiting.calls}
        assert waiting | batch.prefilling.keys() | batch.decoding.calls.keys() == self._calls.keys()
        assert batch.num_running + len(batch.waiting) == len(self._calls)
        assert self._num_submitted == self._num_ended + len(self._calls)
        assert self._due is not None or not self._calls
        batch.check()
