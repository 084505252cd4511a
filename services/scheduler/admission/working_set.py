"""Ours: what is worth keeping must fit, and what is not gives way.

Keeping a context of b tokens for a time t takes b*t token-seconds of a cache of C tokens; giving it up costs b/v
engine seconds when it comes back (v: tokens a second, computed or brought from the pool). With programs waiting, C
token-seconds of room are worth an engine second, for that is what they would do with all of it. So b cancels: keep

    while  inf over tau of E[min(T, tau)] / P(T <= tau)  <=  refills * C / v,   T what is left of the gap,

the left side being the seconds of keeping that a return costs (one over the Gittins index of the law of return given
the time elapsed: algorithms.md 2.4), the right side the time in which the whole cache could be filled anew. A context
that waits for a tool of seconds so keeps its room; one that waits for a person, or is overdue in a heavy tail, gives
it to newcomers, and its program waits in the lobby when it comes back, in the ordering's order like any other: that
knows what is left of it and what it takes. With a pool beside the engine C / v is small, and room goes to who uses it
now.

Contexts grow: beyond `ceiling` the longest idle ones are sent off, because the engine's own eviction, least recently
used first, has taken them or will. (Sending off the newest programs instead has the ledger believe in contexts that
the engine has dropped: about 1.1 times the mean completion time.)
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context
from services.scheduler.rank import gittins

_FIRST_LOOK_SECONDS = 0.5
_GROWTH = 1.3
"""Of the time between looks: a law says little new before the elapsed time has grown by as much."""


class Policy(Admission):
    """`share` of a worker's KV is filled by letting programs in, `ceiling` by their growth. `resumes_first`: 1 if
    programs that come back go before newcomers, whatever the ordering says (p99 TTFT 1.2 times as high)."""

    def __init__(
        self,
        share: float = 1.0,
        ceiling: float = 1.05,
        refills: float = 1.0,
        patience_seconds: float = 2.0,
        resumes_first: float = 0.0,
    ) -> None:
        if not 0 < share <= ceiling or refills < 0 or patience_seconds < 0:
            raise ValueError("working_set: need 0 < share <= ceiling, refills >= 0, patience_seconds >= 0")
        self.share = share
        self.ceiling = ceiling
        self._refills = refills
        self.patience_seconds = patience_seconds
        self.resumes_first = bool(resumes_first)

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        elapsed = now - context.idle_since
        if gittins(*context.gap(now)) > self._refills * context.ledger.refill_seconds:
            return None
        return 1.0, context.idle_since + max(_FIRST_LOOK_SECONDS, elapsed) * _GROWTH
