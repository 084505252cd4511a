"""A session stays at its worker while that is below `theta`; idle workers steal. SAGA (arXiv 2605.00528).

Read in its code: the session's worker if load < 0.8, else the least loaded one; a worker steals when it was idle for
more than 100 ms and its victim has more than twice the average load. Reconstruction: load is calls, running and
waiting, over the seats of the batch; one call is stolen at a time, the first in the queue's order that may move.
"""

from collections.abc import Sequence

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster


class Policy(Placement):
    """`theta`: load at which a session leaves its worker. `idle_seconds`, `ratio`: when work is stolen."""

    def __init__(self, theta: float = 0.8, idle_seconds: float = 0.1, ratio: float = 2.0) -> None:
        if theta <= 0 or idle_seconds < 0 or ratio < 0:
            raise ValueError("saga: need theta > 0, idle_seconds >= 0, ratio >= 0")
        self._theta = theta
        self._idle_seconds = idle_seconds
        self._ratio = ratio
        self._mean_load = 0.0

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        self._mean_load = roster.mean_load
        pinned = roster.outlooks.get(call.program.pinned)
        if pinned is None or pinned.worker.avoided_by(call):
            return None
        waits = call.hold is not None and call.hold.outlook is pinned
        return [pinned] if waits or pinned.load < self._theta else None

    def cost(self, call: Call, way: Way, now: float) -> float:
        return way.outlook.load

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        thief = way.outlook
        idle = not thief.worker.occupied and now - thief.empty_since >= self._idle_seconds
        return idle and other.load > self._ratio * self._mean_load

    def placed(self, call: Call, outlook: Outlook) -> None:
        call.program.pinned = outlook.worker_id
