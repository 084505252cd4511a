"""Ours: what is worth keeping must fit."""

from math import ceil

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger
from services.scheduler.rank import gittins
from services.scheduler.records import Call

_FIRST_LOOK_SECONDS = 0.5
_GROWTH = 1.3
_ASSUMED = 8000.0


class Policy(Admission):
    def __init__(
        self,
        share: float = 0.95,
        ceiling: float = 1.0,
        refills: float = 1.0,
        patience_seconds: float = 2.0,
        order: float = 0,
        resume: float = 1,
        crowd: float = 9,
    ) -> None:
        self._crowd = crowd
        self._share = share
        self._ceiling = ceiling
        self._refills = refills
        self._order = order
        self.resumes_first = bool(resume)
        self.patience_seconds = patience_seconds

    def room(self, ledger: Ledger) -> float:
        return self._share * ledger.num_blocks - ledger.taken_blocks

    def need(self, call: Call, blocks: int) -> float:
        return blocks

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        elapsed = now - context.idle_since
        if gittins(context.returns, elapsed) > self._refills * self._fill(context.ledger):
            return None
        return 1.0, context.idle_since + max(_FIRST_LOOK_SECONDS, elapsed) * _GROWTH

    def crowded(self, ledger: Ledger, blocks: int) -> bool:
        return ledger.taken_blocks + blocks > self._crowd * ledger.num_blocks

    def excess(self, ledger: Ledger) -> bool:
        return ledger.taken_blocks > self._ceiling * ledger.num_blocks

    def pause_order(self, context: Context) -> float:
        if self._order == 0:
            return -context.program.admitted
        if self._order == 1:
            return -gittins(context.returns, 0.0)
        return context.idle_since if self._order == 3 else -context.program.started

    def _fill(self, ledger: Ledger) -> float:
        speed = ledger.worker.load.prefill_tokens_per_second or _ASSUMED
        return ledger.num_blocks * ledger.block_size / speed
