"""Mostly the program with least left, sometimes the call that tells most of the rest: LLMSched (arXiv 2504.03444; [A],
[M]).

With probability `explore` a call is queued to learn from it: before all others, most information first. Else it goes by
the mean of what is left of its program. Information is the mutual information of a call's service and of what follows
it in programs of its kind (learned here, by powers of two), or the forecast's. Reconstruction: the paper decides anew
for every dispatch, and explores only among programs whose ranges of what is left overlap; here each call is drawn once,
so the frequency is the same and the choice is not.
"""

from zlib import crc32

from services.scheduler.ordering import Ordering
from services.scheduler.rank import mean
from services.scheduler.records import Call


class Policy(Ordering):
    """`explore`: epsilon, 0 to 1."""

    def __init__(self, explore: float = 0.1) -> None:
        if not 0 <= explore <= 1:
            raise ValueError("llmsched: need 0 <= explore <= 1")
        self._explore = explore

    def rank(self, call: Call) -> tuple[float, ...]:
        expected = call.expected
        if crc32("/".join(call.key).encode()) < self._explore * 2**32:
            return (0.0, -expected.information, call.arrived)
        return (1.0, mean(expected.remaining, expected.attained_seconds), call.arrived)
