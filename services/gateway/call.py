"""One call from its submission to its end.

The scheduler says where it runs, a worker gives output, the client takes it; each side tells the call what happened
(`on_...`) and the call answers by telling the others. It never waits: whoever takes the output is woken by `wake`.

When its worker is lost the scheduler finds another. Where the client has seen nothing and the rest could not be
generated as it would have been (constraints, penalties, seeds hold state over the output) it starts anew. Otherwise
the next worker gets what was generated so far and goes on behind it, which the worker makes exact or refuses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2
from services.common.errors import Failure, Reason, reason_named
from services.gateway import metrics
from services.gateway.piece import Ending, Pending, Piece
from services.gateway.resuming import holds_state

CallKey = tuple[str, str]
"""(program_id, call_id)."""

_WORKER_TROUBLE = (Reason.ENGINE_DEAD, Reason.DRAINING, Reason.UNAVAILABLE)


class Slot(Protocol):
    """A call's place at a worker, as long as it has one."""

    def abort(self) -> None:
        """End it there; nothing more is heard from it."""
        ...


class Workers(Protocol):
    def start(self, address: str, start: worker_pb2.StartCall, call: "Call") -> Slot:
        """Hand the call to a worker, which answers through `on_output` and `on_lost`."""
        ...


class Scheduler(Protocol):
    def knows(self, key: CallKey) -> bool:
        """Whether a call of that key lives."""
        ...

    def submit(self, call: "Call") -> None:
        """Ask for a place, answered through `on_placement` and `on_rejection`, until the call is finished."""
        ...

    def first_token(self, key: CallKey, attempt: int) -> None: ...
    def lose(self, key: CallKey, attempt: int, generated_tokens: int) -> None: ...
    def finish(self, finished: scheduler_pb2.FinishCall) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call as it is handed on. The messages hold its tokens and hashes compactly and are never changed."""

    start: worker_pb2.StartCall
    submit: scheduler_pb2.SubmitCall
    incremental: bool
    """The output is wanted as it comes, not only at the end."""
    counts_prompt: bool = True
    """The first call with this prompt, of those of one request."""


class Call:
    """The state of one call."""

    def __init__(
        self,
        prepared: Prepared,
        scheduler: Scheduler,
        workers: Workers,
        *,
        max_restarts: int,
        began: float,
        now: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.key: CallKey = (prepared.start.identity.program_id, prepared.start.identity.call_id)
        self.model = prepared.submit.model
        self.ending: Ending | None = None
        self.failure: Failure | None = None
        self._prepared = prepared
        self._scheduler = scheduler
        self._workers = workers
        self._max_restarts = max_restarts
        self._now = now
        self._wake = wake
        self._began = began
        self._waiting_since = now()
        self._waited_seconds = 0.0
        self._spent_seconds = 0.0
        """On workers that were lost."""
        self._placed_at = 0.0
        self._attempt = 0
        self._begun = False
        """Whether this attempt gave output."""
        self._ever_begun = False
        self._worker_id = ""
        self._slot: Slot | None = None
        self._generated: list[int] = []
        self._num_chars = 0
        self._pending = Pending()
        self._seen = False
        self._restarts = 0

    @property
    def over(self) -> bool:
        return self.ending is not None or self.failure is not None

    @property
    def placed(self) -> bool:
        return self._slot is not None

    def announcement(self) -> scheduler_pb2.SubmitCall:
        """How a scheduler that does not know the call hears of it."""
        submit = self._prepared.submit
        if self._slot is None:
            self._attempt = 0  # the one who counted has forgotten it
            return submit
        announced = scheduler_pb2.SubmitCall()
        announced.CopyFrom(submit)
        announced.attempt, announced.worker_id = self._attempt, self._worker_id
        return announced

    def on_placement(self, placement: scheduler_pb2.Placement) -> None:
        """The scheduler found a place. One that is not newer than the last is old news."""
        if self.over or placement.attempt <= self._attempt:
            return
        if self._slot is not None:  # the scheduler saw the loss first
            self._count_restart()
            self._slot.abort()
            self._rewind()
            self._spent_seconds += self._now() - self._placed_at
        else:
            self._waited_seconds += self._now() - self._waiting_since
        self._attempt = placement.attempt
        self._begun = False
        self._placed_at = self._now()
        self._worker_id = placement.worker_id
        self._slot = self._workers.start(placement.worker_address, self._start(placement), self)

    def on_rejection(self, failure: Failure) -> None:
        """The scheduler will find no place."""
        self._fail(failure)

    def on_output(self, output: worker_pb2.CallOutput) -> None:
        """The worker's next output."""
        if self.over:
            return
        if output.token_ids:
            if output.offset != len(self._generated):
                message = f"worker {self._worker_id} sent token {output.offset} where {len(self._generated)} was next"
                self._fail(Failure(Reason.INTERNAL, message))
                return
            self._generated.extend(output.token_ids)
            if not self._begun:
                self._begin()
        self._num_chars += len(output.text)
        self._pending.add(output)
        if output.HasField("finish"):
            self._finish(output.finish)
        elif self._prepared.incremental:
            self._wake()

    def on_lost(self) -> None:
        """The worker is gone."""
        self._slot = None
        if self.over:
            return
        self._spent_seconds += self._now() - self._placed_at
        if self._restarts >= self._max_restarts:
            self._fail(Failure(Reason.ENGINE_DEAD, f"the call lost {self._restarts + 1} workers"))
            return
        self._count_restart()
        self._rewind()
        self._waiting_since = self._now()
        self._scheduler.lose(self.key, self._attempt, len(self._generated))

    def take(self) -> Piece | None:
        """What there is to show; None: nothing now. The last piece has an `ending`. Raises Failure.

        A failed call shows what it has first, but for one that nobody reads along: that can be tried again whole.
        """
        if not self._prepared.incremental:
            if self.failure is not None:
                raise self.failure
            if not self.over:
                return None
        piece = self._pending.take()
        if piece is not None:
            self._seen = True
            piece.ending = self.ending
        elif self.failure is not None:
            raise self.failure
        return piece

    def fail(self, failure: Failure) -> None:
        """It cannot go on. Who waits is woken even if the call was over already."""
        self._fail(failure)
        self._wake()

    def close(self) -> None:
        """Nobody wants the output any more."""
        if not self.over:
            self._fail(Failure(Reason.CANCELLED, "the caller went away"))

    def _start(self, placement: scheduler_pb2.Placement) -> worker_pb2.StartCall:
        start = worker_pb2.StartCall()
        start.CopyFrom(self._prepared.start)
        start.priority = placement.priority
        start.prompt_token_ids.extend(self._generated)
        start.num_resumed_tokens = len(self._generated)
        start.num_resumed_chars = self._num_chars
        return start

    def _begin(self) -> None:
        """The first output of this attempt."""
        self._begun = True
        self._scheduler.first_token(self.key, self._attempt)
        if not self._ever_begun:
            self._ever_begun = True
            metrics.TTFT.labels(self.model).observe(self._now() - self._began)

    def _rewind(self) -> None:
        """After a loss: forget the output if nobody saw it and it could not be continued as it began."""
        if not self._seen and holds_state(self._prepared.start):
            self._generated.clear()
            self._num_chars = 0
            self._pending.clear()

    def _count_restart(self) -> None:
        self._restarts += 1
        metrics.RESTARTS.inc()

    def _finish(self, finish: worker_pb2.Finish) -> None:
        reason = reason_named(finish.error_reason)
        if finish.reason == call_pb2.FINISH_REASON_ABORT or (
            finish.reason == call_pb2.FINISH_REASON_ERROR and reason in _WORKER_TROUBLE
        ):
            self.on_lost()  # not the call's fault, and not asked for by us
            return
        self._slot = None
        if finish.reason == call_pb2.FINISH_REASON_ERROR:
            self._fail(Failure(reason, finish.error_message or "the engine failed on this call"))
            return
        timings = call_pb2.Timings()
        timings.CopyFrom(finish.timings)
        timings.queue_seconds += self._waited_seconds
        timings.decode_seconds += self._spent_seconds  # lost workers did not tell how they spent it
        timings.restarts = self._restarts
        self.ending = Ending(finish.reason, finish.usage, timings, self._worker_id)
        self._tell_scheduler(finish.reason, finish.usage, timings)
        self._measure(self.ending)
        self._wake()

    def _fail(self, failure: Failure) -> None:
        if self.over:
            return
        self.failure = failure
        if self._slot is not None:
            self._slot.abort()
            self._slot = None
        cancelled = failure.reason is Reason.CANCELLED
        reason = call_pb2.FINISH_REASON_ABORT if cancelled else call_pb2.FINISH_REASON_ERROR
        usage = call_pb2.Usage(completion_tokens=len(self._generated))
        self._tell_scheduler(reason, usage, call_pb2.Timings())
        metrics.CALLS.labels(self.model, failure.reason.name.lower()).inc()
        self._wake()

    def _tell_scheduler(
        self, reason: "call_pb2.FinishReason.ValueType", usage: call_pb2.Usage, timings: call_pb2.Timings
    ) -> None:
        program_id, call_id = self.key
        self._scheduler.finish(
            scheduler_pb2.FinishCall(
                program_id=program_id,
                call_id=call_id,
                reason=reason,
                usage=usage,
                timings=timings,
                attempt=self._attempt,
            )
        )

    def _measure(self, ending: Ending) -> None:
        now, usage = self._now(), ending.usage
        metrics.CALLS.labels(self.model, _reason_label(ending.reason)).inc()
        metrics.PROMPT_TOKENS.labels(self.model).inc(usage.prompt_tokens)
        metrics.CACHED_TOKENS.labels(self.model).inc(usage.cached_tokens)
        metrics.COMPLETION_TOKENS.labels(self.model).inc(usage.completion_tokens)
        metrics.E2E.labels(self.model).observe(now - self._began)
        metrics.QUEUE.labels(self.model).observe(ending.timings.queue_seconds)
        if usage.completion_tokens > 1 and ending.timings.decode_seconds and not self._restarts:
            metrics.TPOT.labels(self.model).observe(ending.timings.decode_seconds / (usage.completion_tokens - 1))


def _reason_label(reason: "call_pb2.FinishReason.ValueType") -> str:
    if reason not in call_pb2.FinishReason.values():  # of a newer worker
        return "other"
    return call_pb2.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
