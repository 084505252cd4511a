"""Continuum, also CacheTTL (2511.02230; algorithms.md 1.18): a program's KV is pinned for a TTL when its call ends, the
tau that maximises P(T <= tau) * (queue delay * eta + prefill) - tau; beyond it, the programs that came last go first.

P is the law of return (the paper: durations of the tool, 100 samples). The prefill is that of the program's whole
context at the cost of this segment's tokens, a reconstruction; `eta` is the paper's -Corr(k, N - k), which a pool
cannot see, so it is a setting.
"""

from math import inf

from services.common.laws import Law
from services.kvpool.segment import Pressure, Program, Segment
from services.kvpool.worth import keep_for

_PINNED = 1e12
"""Lifts what is pinned above all that is not."""


class Policy:
    """The density with all of tau charged, at price 1/M."""

    def __init__(self, eta: float = 1.0) -> None:
        self._eta = eta

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        return max((self._rank(program, segment, now, pressure) for program in segment.programs.values()), default=0.0)

    def ttl_seconds(self, law: Law, prefill_seconds: float, queue_delay_seconds: float) -> float:
        """How long to pin, from the end of the call."""
        return keep_for(law, 0.0, queue_delay_seconds * self._eta + prefill_seconds, 1.0, "horizon")[1]

    def _rank(self, program: Program, segment: Segment, now: float, pressure: Pressure) -> float:
        if program.num_running:
            return inf
        order = 1.0 / (1.0 + max(0.0, program.arrived))
        if program.returns is None:
            return order
        whole = segment.recompute_seconds * program.context_blocks / max(1, segment.num_blocks)
        ttl = self.ttl_seconds(program.returns, whole, pressure.queue_delay_seconds)
        return order * _PINNED if now - program.idle_since <= ttl else order
