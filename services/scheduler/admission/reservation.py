"""Maestro (arXiv 2606.12950): a call runs when its prompt and the output predicted for it, with a margin, fit.

The share of KV reserved in vain for the longest output possible so falls by 1 - E[min(predicted + margin, longest)] /
longest. Programs keep nothing between calls. Reconstruction: the abstract and notes were read; its predictor (role and
semantics of the agent) is here what was learned of the agent's outputs, its margin a factor. `whole` 1 reserves the
call's `max_tokens` instead: what it is compared with.
"""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Context
from services.scheduler.records import Call


class Policy(Admission):
    """`margin`: part of the predicted output that is reserved beyond it."""

    def __init__(self, margin: float = 0.2, whole: float = 0, patience_seconds: float = 0.0) -> None:
        if margin < 0 or whole not in (0, 1) or patience_seconds < 0:
            raise ValueError("reservation: need margin >= 0, whole 0 or 1, patience_seconds >= 0")
        self._margin = margin
        self._whole = bool(whole)
        self.patience_seconds = patience_seconds

    def reserves(self, call: Call) -> float:
        longest = call.max_tokens - call.generated_tokens if call.max_tokens else float("inf")
        predicted = call.expected_output * (1.0 + self._margin)
        if self._whole and longest < float("inf"):
            return call.prompt_tokens + longest
        return call.prompt_tokens + min(predicted, longest)

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        return None
