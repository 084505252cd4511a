"""Each call runs where it costs least: its own predicted seconds, and those that others lose by it. Ours, the default.

A worker with an idle slot takes a call that waits for another one only where it gains by that, with a margin, so that
calls do not wander between workers and leave copies of their KV behind; an empty worker takes any. Session affinity is
not a rule here: it falls out of what a cache saves, and so does leaving a worker that is too busy.
"""

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call


class Policy(Placement):
    """`gain`: a call moves for a cost below this part of what waiting is predicted to cost; inf: for any."""

    def __init__(self, gain: float = 0.95) -> None:
        if gain < 0:
            raise ValueError("earliest: need gain >= 0")
        self._gain = gain

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return not way.outlook.worker.occupied or way.cost < self._gain * cost
