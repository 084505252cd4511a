"""Levels: queues by service, each served first come, first served, and how a call that starves leaves them.

Bounds grow geometrically; no paper publishes its own. The guard is Autellix's (arXiv 2502.13965): once
(W_p + W_c) / (T_p + T_c) >= beta the call moves to the first queue. T_c is 0 while it waits; its W_c starts again from
0 then, W_p and T_p stay, so that the other threads of the program follow soon.
"""

from bisect import bisect_right
from math import inf

from services.scheduler.records import Call


class Levels:
    """`num_queues` queues; the first takes what is below `first_bound_seconds`, each next `growth` times more.

    A program may wait `starvation_ratio` (beta) times what it was served; 0: however long.
    """

    def __init__(self, name: str, num_queues: float, first_bound_seconds: float, growth: float, ratio: float) -> None:
        if num_queues < 1 or first_bound_seconds <= 0 or growth <= 1 or ratio < 0:
            raise ValueError(
                f"{name}: need num_queues >= 1, first_bound_seconds > 0, growth > 1, starvation_ratio >= 0"
            )
        self._bounds = [first_bound_seconds * growth**level for level in range(int(num_queues) - 1)]
        self._ratio = ratio

    def of(self, seconds: float) -> int:
        """The queue of so much service; the first is 0."""
        return bisect_right(self._bounds, seconds)

    def promotes_at(self, call: Call, seconds: float) -> float:
        """When a call with so much service has starved; one in the first queue does not."""
        if not self._ratio or call.promoted or not self.of(seconds):
            return inf
        program = call.program
        return call.waiting_since + max(0.0, self._ratio * program.executed_seconds - program.waited_seconds)
