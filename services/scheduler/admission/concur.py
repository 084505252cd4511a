"""CONCUR (arXiv 2601.22705): a window of programs at each worker, set by what its cache does, as congestion control
sets a sender's.

Every period: where the cache is not yet full, or full and still hit, one more program (additive increase); where it is
full and contexts that come back find themselves evicted, a part less (multiplicative decrease); programs beyond the
window pause as their calls end. Reconstruction: only the abstract was read, which names the signals (cache usage, hit
rate) and the law, none of the constants; usage is the ledger's, hits are those of returning contexts.
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Ledger
from services.scheduler.records import Call


class Policy(Admission):
    """The window starts at `programs`, grows by `step` and shrinks by the factor `cut` once in `period_seconds`."""

    def __init__(
        self,
        programs: float = 8,
        step: float = 1.0,
        cut: float = 0.75,
        full: float = 0.9,
        hit: float = 0.8,
        period_seconds: float = 10.0,
        patience_seconds: float = 5.0,
    ) -> None:
        if programs < 1 or min(step, full, period_seconds) <= 0 or patience_seconds < 0:
            raise ValueError("concur: need programs >= 1; step, full and period_seconds > 0, patience_seconds >= 0")
        if not 0 < cut < 1 or not 0 < hit <= 1:
            raise ValueError("concur: need 0 < cut < 1, 0 < hit <= 1")
        self._programs = programs
        self._step = step
        self._cut = cut
        self._full = full
        self._hit = hit
        self.period_seconds = period_seconds
        self.patience_seconds = patience_seconds

    def room(self, ledger: Ledger) -> float:
        return self._window(ledger) - len(ledger.programs)

    def need(self, call: Call, blocks: int) -> float:
        return 1.0

    def excess(self, ledger: Ledger) -> bool:
        return len(ledger.programs) > self._window(ledger)

    def adjust(self, ledger: Ledger, now: float) -> None:
        window = self._window(ledger)
        full = ledger.live_blocks + ledger.idle_blocks > self._full * ledger.num_blocks
        if full and ledger.cached_share < self._hit:
            ledger.window = max(1.0, min(window, len(ledger.programs)) * self._cut)
        elif len(ledger.programs) >= window - self._step:  # else it is not the window that keeps programs out
            ledger.window = window + self._step

    def _window(self, ledger: Ledger) -> float:
        return ledger.window or self._programs
