"""Programs that got little engine time go first: PLAS and, for parallel threads, ATLAS (Autellix, arXiv 2502.13965).

A call inherits its program's attained seconds when it arrives, falls into the queue [bound_i, bound_i+1) of that value,
and waits there first come, first served. Bounds grow geometrically; the paper does not publish its own.

Anti-starvation: once (W_p + W_c) / (T_p + T_c) >= beta the call moves to the first queue. T_c is 0 while it waits; its
W_c starts again from 0 then, W_p and T_p stay, so that the other threads of the program follow soon.
"""

from bisect import bisect_right
from math import inf

from services.scheduler.records import Call


class Policy:
    """`num_queues` queues; the first takes programs below `first_bound_seconds`, each next `growth` times more.

    A program may wait `starvation_ratio` (beta) times what it was served; 0: however long.
    """

    def __init__(
        self,
        num_queues: float = 8,
        first_bound_seconds: float = 2.0,
        growth: float = 2.0,
        starvation_ratio: float = 4.0,
    ) -> None:
        if num_queues < 1 or first_bound_seconds <= 0 or growth <= 1 or starvation_ratio < 0:
            raise ValueError(
                "least_attained: need num_queues >= 1, first_bound_seconds > 0, growth > 1, starvation_ratio >= 0"
            )
        self._bounds = [first_bound_seconds * growth**i for i in range(int(num_queues) - 1)]
        self._beta = starvation_ratio

    def rank(self, call: Call) -> tuple[float, ...]:
        level = 0 if call.promoted else bisect_right(self._bounds, call.inherited_seconds)
        return (level, call.arrived)

    def promotes_at(self, call: Call) -> float:
        if not self._beta or call.promoted or call.inherited_seconds < (self._bounds[0] if self._bounds else inf):
            return inf
        program = call.program
        return call.waiting_since + max(0.0, self._beta * program.executed_seconds - program.waited_seconds)
