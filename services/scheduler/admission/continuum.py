"""Continuum (arXiv 2511.02230; from v4 on CacheTTL): contexts are pinned for a time to live after each call.

    ttl = argmax over tau of P(T <= tau) * (eta * queue delay + seconds of prefill) - tau

T the time to the next call, the queue delay the mean of programs that had to wait when they came back, both terms of
the sum what a return within tau saves, tau its price (memory cancels). While pinned a context counts in full; then not
at all. Newcomers get what is left; where nothing runs, the pins of the newest programs are broken until the first fits.
Reconstruction: the law of return is ours (theirs is the empirical one of the tool), prefill is linear (theirs has a
quadratic term), eta is a setting (theirs is minus the correlation of turns done and to come: 1 for equal programs).
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context
from services.scheduler.rank import time_to_live


class Policy(Admission):
    """Pins fill at most `share` of a worker's KV."""

    resumes_first = True
    ceiling = 1.0

    def __init__(self, eta: float = 1.0, share: float = 1.0, patience_seconds: float = 0.0) -> None:
        if eta < 0 or not 0 < share <= 1 or patience_seconds < 0:
            raise ValueError("continuum: need eta >= 0, 0 < share <= 1, patience_seconds >= 0")
        self._eta = eta
        self.share = share
        self.patience_seconds = patience_seconds

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        due = context.idle_since + self._ttl(context)
        return (1.0, due) if now < due - 1e-9 else None

    def pause_order(self, context: Context) -> float:
        return -context.program.started

    def _ttl(self, context: Context) -> float:
        ledger = context.ledger
        prefill_seconds = ledger.refill_seconds * context.blocks / max(1, ledger.num_blocks)
        gain = self._eta * ledger.delay_seconds + prefill_seconds
        return time_to_live(context.returns, gain)
