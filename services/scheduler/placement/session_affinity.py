"""Every call of a program runs where its first one did, and waits for that worker; new ones go where fewest calls are.

What session-affinity routers do (the baseline of algorithms 1.6). A program moves only when its worker is gone, or has
just lost one of its calls.
"""

from collections.abc import Sequence

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster


class Policy(Placement):
    """Without settings."""

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        pinned = roster.outlooks.get(call.program.pinned)
        return None if pinned is None or pinned.worker.avoided_by(call) else [pinned]

    def cost(self, call: Call, way: Way, now: float) -> float:
        return way.outlook.load

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return other.worker_id != call.program.pinned

    def placed(self, call: Call, outlook: Outlook) -> None:
        call.program.pinned = outlook.worker_id
