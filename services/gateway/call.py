"""One call from its submission to its end.

The scheduler says where it runs, a worker gives output, the client takes it; each side tells the call what happened
(`on_...`) and the call answers by telling the others. It never waits: whoever takes the output is woken by `wake`.

When its worker is lost the scheduler finds another. Where the client has seen nothing and the rest could not be
generated as it would have been (constraints, penalties, seeds hold state over the output) it starts anew. Otherwise
the next worker gets what was generated so far and goes on behind it, which the worker makes exact or refuses.

A placement may be for the prefill alone (`plan.hand_off`): that worker generates one token and the call asks for its
next place. The token is the call's first, with which the next worker goes on; where that could not go on as it would
have been, the token is kept from the client until it is known that the call ended with it, and forgotten if not.

A call that was begun at a gateway that died comes with what its client has of the output, as if its worker were lost.
"""

from collections.abc import Callable
from dataclasses import dataclass

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2, workflow_pb2
from services.common.errors import Failure, Reason, reason_named
from services.gateway import metrics
from services.gateway.account import Account
from services.gateway.chronicle import Chronicle
from services.gateway.eta import aged
from services.gateway.neighbours import CallKey, Log, Scheduler, Slot, Workers
from services.gateway.piece import Ending, Pending, Piece, Said
from services.gateway.request import Resume
from services.gateway.resuming import holds_state

_OVERDUE_SECONDS = 0.001
"""What is left of a deadline that has passed: 0 would be none."""
_WORKER_TROUBLE = (Reason.ENGINE_DEAD, Reason.DRAINING, Reason.UNAVAILABLE, Reason.STALE_TERM)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call as it is handed on. The messages hold its tokens and hashes compactly and are never changed."""

    start: worker_pb2.StartCall
    submit: scheduler_pb2.SubmitCall
    began: workflow_pb2.LogEntry
    """What the call log says of it."""
    incremental: bool
    """The output is wanted as it comes, not only at the end."""
    counts_prompt: bool = True
    """The first call with this prompt, of those of one request."""
    content_key: bytes = b""
    """Keys the hash of its output."""
    resume: Resume | None = None
    """What the client has already."""
    drawn_seed: int | None = None
    """Chosen here."""


class Call:
    """The state of one call."""

    def __init__(
        self,
        prepared: Prepared,
        scheduler: Scheduler,
        workers: Workers,
        log: Log,
        *,
        max_restarts: int,
        began: float,
        now: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self.key: CallKey = (prepared.start.identity.program_id, prepared.start.identity.call_id)
        self.model = prepared.submit.model
        self.drawn_seed = prepared.drawn_seed
        self.ending: Ending | None = None
        self.said: Said | None = None
        """Once it has ended well."""
        self.failure: Failure | None = None
        self._prepared = prepared
        self._scheduler = scheduler
        self._workers = workers
        resumed = prepared.resume.token_ids if prepared.resume else ()
        self._chronicle = Chronicle(log, prepared.began, prepared.content_key, whole=not resumed)
        self._max_restarts = max_restarts
        self._wake = wake
        self._account = Account(began, now, resumed=bool(resumed))
        self._began = began
        self._now = now
        self._attempt = 0
        self._begun = False
        """Whether this attempt gave output."""
        self._placement = scheduler_pb2.Placement()
        """Of this attempt."""
        self._placed_at = began
        self._slot: Slot | None = None
        self._hands_off = False
        """Whether this attempt is to prefill only."""
        self._withheld = False
        """Whether its output is kept from the client until it is known what becomes of it."""
        self._generated: list[int] = list(resumed)
        self._num_resumed = len(resumed)
        """Of these, which the scheduler takes for prompt."""
        self._num_chars = prepared.resume.num_chars if prepared.resume else 0
        self._pending = Pending(self._num_resumed)
        self._shown = False
        """Whether the client could see some output."""
        self._seen = bool(resumed)
        """Whether it took some."""

    @property
    def over(self) -> bool:
        return self.ending is not None or self.failure is not None

    @property
    def placed(self) -> bool:
        return self._slot is not None

    @property
    def eta(self) -> call_pb2.Eta | None:
        """When its program is expected to be complete, from now, as the scheduler said with its place."""
        said = self._placement.eta if self._placement.HasField("eta") else None
        return said and aged(said, self._now() - self._placed_at)

    def announcement(self) -> scheduler_pb2.SubmitCall:
        """How a scheduler that does not know the call hears of it."""
        submit = self._prepared.submit
        if self._slot is None:
            self._attempt = 0  # the one who counted has forgotten it
            if not submit.deadline_seconds:
                return submit
        announced = scheduler_pb2.SubmitCall()
        announced.CopyFrom(submit)
        if self._slot is not None:
            announced.attempt, announced.worker_id = self._attempt, self._placement.worker_id
        if submit.deadline_seconds:
            announced.deadline_seconds = max(_OVERDUE_SECONDS, submit.deadline_seconds - (self._now() - self._began))
        return announced

    def on_placement(self, placement: scheduler_pb2.Placement) -> None:
        """The scheduler found a place. One that is not newer than the last is old news."""
        if self.over or placement.attempt <= self._attempt:
            return
        if self._slot is not None:  # the scheduler saw the loss first
            self._slot.abort()
            self._lose()
        self._attempt = placement.attempt
        self._begun = False
        self._placement, self._placed_at = placement, self._now()
        self._run(self._start(placement))

    def on_rejection(self, failure: Failure) -> None:
        """The scheduler will find no place."""
        self._fail(failure)

    def on_output(self, output: worker_pb2.CallOutput) -> None:
        """The worker's next output."""
        if self.over:
            return
        if output.token_ids:
            if output.offset != len(self._generated):
                where = f"token {output.offset} where {len(self._generated)} was next"
                message = f"worker {self._placement.worker_id} sent {where}"
                self._fail(Failure(Reason.INTERNAL, message))
                return
            self._generated.extend(output.token_ids)
            if not self._begun:
                self._begun = True
                self._scheduler.first_token(self.key, self._attempt)
        self._num_chars += len(output.text)
        self._pending.add(output)
        self._chronicle.add(output)
        if not self._withheld:
            self._show()
        if output.HasField("finish"):
            self._finish(output.finish)

    def on_lost(self) -> None:
        """The worker is gone."""
        self._slot = None
        if self.over:
            return
        if self._account.restarts >= self._max_restarts:
            self._fail(Failure(Reason.ENGINE_DEAD, f"the call lost {self._account.restarts + 1} workers"))
            return
        self._lose()
        self._scheduler.lose(self.key, self._attempt, self._num_generated)

    def take(self) -> Piece | None:
        """What there is to show; None: nothing now. The last piece has an `ending`. Raises Failure.

        A failed call shows what it has first, but for one that nobody reads along: that can be tried again whole.
        """
        if self._withheld or not self._prepared.incremental:
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
        start.priority, start.term = placement.priority, placement.term
        start.prompt_token_ids.extend(self._generated)
        start.num_resumed_tokens = len(self._generated)
        start.num_resumed_chars = self._num_chars
        if placement.HasField("kv"):
            start.kv.CopyFrom(placement.kv)
        if self._generated and start.kv.hand_off and holds_state(start):
            start.kv.hand_off = False  # a new scheduler cannot know of the tokens, and who repeats them goes on
        return start

    def _run(self, start: worker_pb2.StartCall) -> None:
        """Begin, or go on, where the placement says."""
        self._account.place()
        self._hands_off = start.kv.hand_off
        self._withheld = self._hands_off and holds_state(start)
        self._slot = self._workers.start(self._placement.worker_address, start, self)

    def _show(self) -> None:
        """Let the client have what is there."""
        if self._generated and not self._shown:
            self._shown = True
            self._account.measure_first_token(self.model)
        if self._prepared.incremental:
            self._wake()

    def _lose(self) -> None:
        """After a loss: forget the output if nobody saw it and it could not be continued as it began."""
        self._account.lose()
        if not self._seen and holds_state(self._prepared.start):
            self._forget()

    def _forget(self) -> None:
        self._generated.clear()
        self._num_chars = 0
        self._pending.clear()
        self._chronicle.forget()

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
        if self._hands_off and finish.reason == call_pb2.FINISH_REASON_LENGTH and self._wants_more:
            self._hand_over(finish)
            return
        self._withheld = False
        self._show()
        self.ending = self._account.ending(finish, self._placement.worker_id)
        self._tell_scheduler(finish.reason, self.ending.usage, self.ending.timings)
        self._account.measure(self.model, self.ending)
        self.said = self._chronicle.end(self.ending, self._placement)
        self._wake()

    @property
    def _wants_more(self) -> bool:
        """Whether it was not the call's own limit that ended the output."""
        return len(self._generated) < self._prepared.start.sampling.max_tokens

    @property
    def _num_generated(self) -> int:
        """Tokens, by what the scheduler knows of the call."""
        return len(self._generated) - self._num_resumed

    def _hand_over(self, finish: worker_pb2.Finish) -> None:
        """This worker has prefilled: the scheduler finds one that decodes."""
        if self._withheld:
            self._forget()
        self._withheld = False
        self._account.hand_over(finish, decoding=bool(self._generated))
        if not self._scheduler.hand_off(self.key, self._attempt, self._num_generated):
            start = self._start(self._placement)  # streams that run go on without a scheduler: this one where it is
            start.kv.hand_off = False
            self._run(start)

    def _fail(self, failure: Failure) -> None:
        if self.over:
            return
        self.failure = failure
        if self._slot is not None:
            self._slot.abort()
            self._slot = None
        cancelled = failure.reason is Reason.CANCELLED
        reason = call_pb2.FINISH_REASON_ABORT if cancelled else call_pb2.FINISH_REASON_ERROR
        num_generated = len(self._generated)
        self._tell_scheduler(reason, call_pb2.Usage(completion_tokens=num_generated), call_pb2.Timings())
        metrics.CALLS.labels(self.model, failure.reason.name.lower()).inc()
        self._chronicle.fail(reason, failure, num_generated, self._account.broken(), self._placement)
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
