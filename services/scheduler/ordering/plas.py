"""Programs that got little engine time in all go first: PLAS (Autellix, arXiv 2502.13965; [R]).

As atlas.py, but what counts is the sum over all finished calls of the program, also of parallel ones. Reconstruction
and differences: see there.
"""

from services.scheduler.levels import Levels
from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """See levels.py."""

    def __init__(
        self,
        num_queues: float = 8,
        first_bound_seconds: float = 2.0,
        growth: float = 2.0,
        starvation_ratio: float = 4.0,
    ) -> None:
        self._levels = Levels("plas", num_queues, first_bound_seconds, growth, starvation_ratio)

    def rank(self, call: Call) -> tuple[float, ...]:
        return (self.level(call), call.arrived)

    def level(self, call: Call) -> int:
        return 0 if call.promoted else self._levels.of(call.program.served_seconds)

    def promotes_at(self, call: Call) -> float:
        return self._levels.promotes_at(call, call.program.served_seconds)
