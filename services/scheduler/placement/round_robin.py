"""The workers in turn, one call each; a call waits for the one whose turn it was."""

from collections.abc import Sequence

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster


class Policy(Placement):
    """Without settings."""

    def __init__(self) -> None:
        self._turn = 0

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        if call.hold is not None:
            return [call.hold.outlook]
        self._turn += 1
        return [roster.nth(self._turn - 1)]

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return False
