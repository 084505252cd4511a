"""Programs that came back while their KV was still pinned go first, then older programs: Continuum (arXiv 2511.02230;
[N], [R] a reproduction).

    TTL = argmax over tau of P(return <= tau) * (T * eta + reload) - tau        (T: what evicted calls wait)

A call is pinned if the last call of its thread ended no longer ago than that. Restarted calls go before all, as in
every ordering here. Reconstruction: T * eta is a setting; the law of returns is that of the tenant and agent.
`ttl_seconds` sets the TTL itself (the public fork: 2 s).
"""

from math import inf

from services.scheduler.ordering import Ordering
from services.scheduler.rank import time_to_live
from services.scheduler.records import Call


class Policy(Ordering):
    """`delay_seconds`: T * eta."""

    def __init__(self, ttl_seconds: float = 0.0, delay_seconds: float = 1.0) -> None:
        if ttl_seconds < 0 or delay_seconds < 0:
            raise ValueError("continuum: need ttl_seconds >= 0, delay_seconds >= 0")
        self._ttl_seconds = ttl_seconds
        self._delay_seconds = delay_seconds

    def rank(self, call: Call) -> tuple[float, ...]:
        expected = call.expected
        ttl = self._ttl_seconds
        if not ttl and expected.away_seconds < inf:
            ttl = time_to_live(expected.returns, self._delay_seconds + expected.prefill_seconds)
        return (float(expected.away_seconds > ttl), call.program.started, call.arrived)
