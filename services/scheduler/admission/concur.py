"""How many programs an engine has at once is found by AIMD, as TCP finds its window: CONCUR ([N] notes only).

    KV wanted > high * C: window = max(1, cut * window);   < low * C, and the window is full: window = window + step

A program is active while it has a context at the engine, tools or not; of more than the window the ones that were let
in last are paused between calls. All but AIMD on the number of active agents is a reconstruction: the constants; that
congestion is seen by what contexts want of the KV, where a real engine sees its usage and its cache miss; that each
engine has a window of its own.
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger
from services.scheduler.records import Call


class Policy(Admission):
    """`first`: the window of an engine that was never adjusted. `low` and `high` are shares of its KV."""

    def __init__(
        self,
        first: float = 8,
        step: float = 1.0,
        cut: float = 0.5,
        low: float = 0.8,
        high: float = 1.0,
        period_seconds: float = 2.0,
        patience_seconds: float = 10.0,
    ) -> None:
        if first < 1 or step <= 0 or not 0 < cut < 1 or not 0 < low <= high:
            raise ValueError("concur: need first >= 1, step > 0, cut between 0 and 1, 0 < low <= high")
        if period_seconds <= 0 or patience_seconds < 0:
            raise ValueError("concur: need period_seconds > 0, patience_seconds >= 0")
        self._first = first
        self._step = step
        self._cut = cut
        self._low = low
        self._high = high
        self.period_seconds = period_seconds
        self.patience_seconds = patience_seconds

    def room(self, ledger: Ledger) -> float:
        return self._window(ledger) - len(ledger.programs)

    def need(self, call: Call, blocks: int) -> float:
        return 1.0

    def excess(self, ledger: Ledger) -> bool:
        return len(ledger.programs) > self._window(ledger)

    def pause_order(self, context: Context) -> float:
        return -context.program.admitted

    def adjust(self, ledger: Ledger, now: float) -> None:
        window = self._window(ledger)
        if ledger.taken_blocks > self._high * ledger.num_blocks:
            window = max(1.0, self._cut * window)
        elif ledger.taken_blocks < self._low * ledger.num_blocks and len(ledger.programs) + 1 > window:
            window += self._step
        ledger.window = window

    def _window(self, ledger: Ledger) -> float:
        return ledger.window or self._first
