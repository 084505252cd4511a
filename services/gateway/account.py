"""Where a call's time went and what it used, over all its attempts.

An attempt ends in one of three ways: it ends the call; it is lost, and nobody learns how it spent its time; or it was
to prefill only, tells how long that took, and hands the call over to a worker that decodes it. A call that nobody ends
well has spent its time as it looked from here.
"""

from collections.abc import Callable

from legato.v1 import call_pb2, worker_pb2
from services.gateway import metrics
from services.gateway.piece import Ending


class Account:
    """One call's. It waits for a place from the beginning, and runs from `place` to `lose` or `hand_over`."""

    def __init__(self, began: float, now: Callable[[], float], *, resumed: bool = False) -> None:
        """`resumed`: it was begun at another gateway, whose time nobody knows."""
        self.restarts = 0
        self._resumed = resumed
        self._began = began
        self._now = now
        self._since = now()
        """When it last began to wait or to run."""
        self._running = False
        self._first_at: float | None = None
        """When the client could have the first token."""
        self._waited_seconds = 0.0
        self._lost_seconds = 0.0
        """On workers that were lost."""
        self._prefills = call_pb2.Timings()
        """Of the attempts that handed it over, summed."""
        self._cached_tokens: int | None = None
        """Of the prompt, as the last of these found it; whoever decodes gets all of it from them."""
        self._decoding = False
        """Its first token came from one of these and stays."""

    def place(self) -> None:
        """It runs from now on."""
        self._waited_seconds += self._lap()
        self._running = True

    def lose(self) -> None:
        """Its worker is lost: it waits from now on."""
        self._lost_seconds += self._lap()
        self._running = False
        self.restarts += 1
        metrics.RESTARTS.inc()

    def hand_over(self, finish: worker_pb2.Finish, *, decoding: bool) -> None:
        """It was prefilled and waits from now on. `decoding`: the token that this gave stays."""
        self._lap()
        self._running = False
        self._prefills.queue_seconds += finish.timings.queue_seconds
        self._prefills.prefill_seconds += finish.timings.prefill_seconds
        self._prefills.decode_seconds += finish.timings.decode_seconds
        self._cached_tokens = finish.usage.cached_tokens
        self._decoding = decoding
        metrics.HAND_OFFS.inc()

    def ending(self, finish: worker_pb2.Finish, worker_id: str) -> Ending:
        """The whole call, which its last worker finished."""
        usage = call_pb2.Usage()
        usage.CopyFrom(finish.usage)
        if self._cached_tokens is not None:
            usage.cached_tokens = min(self._cached_tokens, usage.prompt_tokens)
        told, prefills = finish.timings, self._prefills
        timings = call_pb2.Timings(
            queue_seconds=told.queue_seconds + prefills.queue_seconds + self._waited_seconds,
            prefill_seconds=prefills.prefill_seconds,
            # Lost workers did not tell how they spent it.
            decode_seconds=told.decode_seconds + prefills.decode_seconds + self._lost_seconds,
            restarts=self.restarts,
        )
        if self._decoding:  # what a worker did before the first token of its own lies behind the call's first one
            timings.decode_seconds += told.prefill_seconds
        else:
            timings.prefill_seconds += told.prefill_seconds
        return Ending(finish.reason, usage, timings, worker_id)

    def broken(self) -> call_pb2.Timings:
        """The whole call, which nobody finished, up to now."""
        timings = call_pb2.Timings()
        timings.CopyFrom(self._prefills)
        timings.queue_seconds += self._waited_seconds
        timings.decode_seconds += self._lost_seconds
        timings.restarts = self.restarts
        since, now = self._since, self._now()
        if not self._running:
            timings.queue_seconds += now - since
        else:
            first = now if self._first_at is None else max(since, self._first_at)
            timings.prefill_seconds += first - since
            timings.decode_seconds += now - first
        return timings

    def measure_first_token(self, model: str) -> None:
        """The client can have the first token now."""
        self._first_at = self._now()
        metrics.TTFT.labels(model).observe(self._first_at - self._began)

    def measure(self, model: str, ending: Ending) -> None:
        """The call has ended so."""
        usage, timings = ending.usage, ending.timings
        metrics.CALLS.labels(model, _reason_label(ending.reason)).inc()
        metrics.PROMPT_TOKENS.labels(model).inc(usage.prompt_tokens)
        metrics.CACHED_TOKENS.labels(model).inc(usage.cached_tokens)
        metrics.COMPLETION_TOKENS.labels(model).inc(usage.completion_tokens)
        metrics.E2E.labels(model).observe(self._now() - self._began)
        metrics.QUEUE.labels(model).observe(timings.queue_seconds)
        whole = not self.restarts and not self._resumed
        if usage.completion_tokens > 1 and timings.decode_seconds and whole:
            metrics.TPOT.labels(model).observe(timings.decode_seconds / (usage.completion_tokens - 1))

    def _lap(self) -> float:
        since, self._since = self._since, self._now()
        return self._since - since


def _reason_label(reason: "call_pb2.FinishReason.ValueType") -> str:
    if reason not in call_pb2.FinishReason.values():  # of a newer worker
        return "other"
    return call_pb2.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
