"""Programs that got little engine time along their longest chain go first: ATLAS (Autellix, arXiv 2502.13965; [R]).

A call inherits its program's attained seconds when it arrives, falls into the queue [bound_i, bound_i+1) of that value,
and waits there first come, first served. The scalar can count across branches (a path that no call took), as theirs
does. Reconstruction: bounds and beta, which are not published. Differs: service is engine seconds (engine_seconds.py)
rather than time in the executor, and a running call is not demoted when its quantum ends unless the engine does it.
"""

from services.scheduler.levels import Levels
from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """See levels.py."""

    name = "atlas"

    def __init__(
        self,
        num_queues: float = 8,
        first_bound_seconds: float = 2.0,
        growth: float = 2.0,
        starvation_ratio: float = 4.0,
    ) -> None:
        self._levels = Levels(self.name, num_queues, first_bound_seconds, growth, starvation_ratio)

    def rank(self, call: Call) -> tuple[float, ...]:
        return (self.level(call), call.arrived)

    def level(self, call: Call) -> int:
        return 0 if call.promoted else self._levels.of(self.served(call))

    def promotes_at(self, call: Call) -> float:
        return self._levels.promotes_at(call, self.served(call))

    def served(self, call: Call) -> float:
        """Engine seconds that its program counts as having had."""
        return call.inherited_seconds
