"""ThunderAgent (arXiv 2602.13692, section 4 and its public code): bound the tokens of the programs at a worker.

Programs in a call count in full, those in a tool by 2^-(periods of 5 s in it) (the paper's decay; its code's default is
none: `decay` 0). Beyond `most` of the KV programs are paused, those in a tool and the shortest first (S_pause = 1/c +
I(acting)); below `least` paused and new ones are let in, in the order of S_restore = 1/c + I(reasoning), which is that
of the ordering `thunderagent`. Paused programs go to any worker. Reconstruction: theirs decides every 5 s, here a
decision falls when something happens; a program in a call is paused when the call ends, as theirs is.
"""

from math import inf

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context

_PERIOD_SECONDS = 5.0


class Policy(Admission):
    """`most` and `least` (lambda) are parts of a worker's KV."""

    def __init__(
        self, most: float = 1.0, least: float = 1.0, decay: float = 1.0, patience_seconds: float = 5.0
    ) -> None:
        if not 0 < least <= most or decay not in (0, 1) or patience_seconds < 0:
            raise ValueError("thunderagent: need 0 < least <= most, decay 0 or 1, patience_seconds >= 0")
        self.share = least
        self.ceiling = most
        self._decays = bool(decay)
        self.patience_seconds = patience_seconds

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        if not self._decays:
            return 1.0, inf
        periods = int((now - context.idle_since) / _PERIOD_SECONDS + 1e-9)
        return 0.5**periods, context.idle_since + (periods + 1) * _PERIOD_SECONDS if periods < 20 else inf

    def pause_order(self, context: Context) -> float:
        return context.blocks
