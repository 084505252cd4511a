"""Programs are paused while contexts exceed the KV, the shortest first, and let in while they do not: ThunderAgent
(arXiv 2602.13692; [R] paper and code).

    pause   while sum of c (running) + sum of c * f(t) (between calls) > pause_share * C,    S_pause = 1 / c + I(acting)
    restore while that < restore_share * C                                    (both shares 1)

f(t) = 2 ** -t after t ticks of 5 s without a call in the paper; in the code's default f = 1 (`decay` 0). What is
restored first is the ordering's business (ordering/thunderagent.py). Differs: theirs looks every tick, this one when
something changes; theirs may mark a program whose call runs, to be paused when that ends; here it may be paused then.
What contexts share counts once here, for the engine keeps it once.
"""

from math import inf

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger
from services.scheduler.records import Call

_MOST_TICKS = 30
"""A context that is worth less than a billionth is not weighed again."""


class Policy(Admission):
    """`decay`: halvings of an idle context's weight in each tick."""

    def __init__(
        self,
        pause_share: float = 1.0,
        restore_share: float = 1.0,
        decay: float = 1.0,
        tick_seconds: float = 5.0,
        patience_seconds: float = 5.0,
    ) -> None:
        if not 0 < restore_share <= pause_share:
            raise ValueError("thunderagent: need 0 < restore_share <= pause_share")
        if decay < 0 or tick_seconds <= 0 or patience_seconds < 0:
            raise ValueError("thunderagent: need decay >= 0, tick_seconds > 0, patience_seconds >= 0")
        self._pause_share = pause_share
        self._restore_share = restore_share
        self._decay = decay
        self._tick_seconds = tick_seconds
        self.patience_seconds = patience_seconds

    def room(self, ledger: Ledger) -> float:
        return self._restore_share * ledger.num_blocks - ledger.taken_blocks

    def need(self, call: Call, blocks: int) -> float:
        return blocks

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        if not self._decay:
            return 1.0, inf
        # The moment of a tick belongs to it, whatever rounding makes of it.
        ticks = int((now - context.idle_since) / self._tick_seconds + 1e-9)
        again = inf if ticks >= _MOST_TICKS else context.idle_since + (ticks + 1) * self._tick_seconds
        return 2.0 ** (-self._decay * ticks), again

    def excess(self, ledger: Ledger) -> bool:
        return ledger.taken_blocks > self._pause_share * ledger.num_blocks

    def pause_order(self, context: Context) -> float:
        return context.blocks
