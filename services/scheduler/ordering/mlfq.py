"""Calls that will take or have taken little go first, each for itself: a multi-level feedback queue (FastServe,
arXiv 2305.05920 [M]; the baseline MLFQ of Autellix).

A call joins the first queue whose bound is above its prefill (FastServe's skip-join, which the prompt alone decides),
or the service it got before it was interrupted, if that is more; first come, first served inside. The program does not
count. Differs: a running call is demoted only by an engine that can (per-level quanta); without, this is skip-join.
"""

from services.scheduler.levels import Levels
from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """See levels.py; starvation is that of the call's program."""

    def __init__(
        self,
        num_queues: float = 8,
        first_bound_seconds: float = 0.5,
        growth: float = 2.0,
        starvation_ratio: float = 0.0,
    ) -> None:
        self._levels = Levels("mlfq", num_queues, first_bound_seconds, growth, starvation_ratio)

    def rank(self, call: Call) -> tuple[float, ...]:
        return (self.level(call), call.arrived)

    def level(self, call: Call) -> int:
        return 0 if call.promoted else self._levels.of(_seconds(call))

    def promotes_at(self, call: Call) -> float:
        return self._levels.promotes_at(call, _seconds(call))


def _seconds(call: Call) -> float:
    return max(call.expected.prefill_seconds, call.served_seconds)
