"""A call starts where the KV that it is predicted to need, and a margin, is free: Maestro's reservation (arXiv
2606.12950; [A] abstract, [N] notes).

    reserved(call) = prompt + predicted output + margin <= C - reserved by the calls that run

instead of the longest output that it may have. What a program leaves between calls reserves nothing: it is cache, and
its next call is let in as its first was. Reconstruction: the prediction is what was learned of the tenant and agent (or
a forecast) instead of their regressor over the text of the prompt; the margin is a setting, for how they choose it was
not read.
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context, Ledger
from services.scheduler.records import Call


class Policy(Admission):
    """`margin_tokens`: on top of each predicted output."""

    patience_seconds = 0.0

    def __init__(self, margin_tokens: float = 128) -> None:
        if margin_tokens < 0:
            raise ValueError("reservation: need margin_tokens >= 0")
        self._margin_tokens = margin_tokens

    def room(self, ledger: Ledger) -> float:
        margin = (ledger.num_live + 1) * ledger.blocks_for(self._margin_tokens)
        return ledger.num_blocks - ledger.taken_blocks - margin

    def need(self, call: Call, blocks: int) -> float:
        return blocks

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        return None
