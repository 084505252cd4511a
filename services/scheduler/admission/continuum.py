"""A context is pinned while waiting for its return pays: Continuum, later CacheTTL (arXiv 2511.02230; [N], [R] a
reproduction).

    TTL = argmax over tau of P(return <= tau) * (T * eta + reload) - tau

Pinned contexts count in full; when the TTL is over the program needs room anew, as one that just came. When an engine
runs nothing, or what runs grows into what is pinned, contexts of the programs that came last are unpinned until it fits
(theirs: until the head of the queue does). Reconstruction: T * eta, the queue's delay of calls that lost their context
times the correlation of turns done with turns left, is the setting `delay_seconds`; reload is the prefill of the whole
context at the engine's measured speed; P is the law of the tenant and agent, not that of the tool. `ttl_seconds` sets
the TTL itself (the public fork: 2 s). The order of calls is ordering/continuum.py.
"""

from math import inf

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger
from services.scheduler.rank import time_to_live
from services.scheduler.records import Call

_ASSUMED_TOKENS_PER_SECOND = 8_000.0
"""Of an engine that has not measured its prefill."""


class Policy(Admission):
    """`delay_seconds`: T * eta."""

    patience_seconds = 0.0

    def __init__(self, ttl_seconds: float = 0.0, delay_seconds: float = 1.0) -> None:
        if ttl_seconds < 0 or delay_seconds < 0:
            raise ValueError("continuum: need ttl_seconds >= 0, delay_seconds >= 0")
        self._ttl_seconds = ttl_seconds
        self._delay_seconds = delay_seconds

    def room(self, ledger: Ledger) -> float:
        return ledger.num_blocks - ledger.taken_blocks

    def need(self, call: Call, blocks: int) -> float:
        return blocks

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        ttl = self._ttl_seconds or time_to_live(context.returns, self._delay_seconds + _reload_seconds(context))
        expires = context.idle_since + ttl
        return (1.0, expires) if now < expires else None

    def excess(self, ledger: Ledger) -> bool:
        return ledger.taken_blocks > ledger.num_blocks

    def pause_order(self, context: Context) -> float:
        return -context.program.started


def _reload_seconds(context: Context) -> float:
    ledger = context.ledger
    speed = ledger.worker.load.prefill_tokens_per_second
    return context.blocks * ledger.block_size / (speed if 0 < speed < inf else _ASSUMED_TOKENS_PER_SECOND)
