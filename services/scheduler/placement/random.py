"""Any worker, drawn for each call, which waits for the one that was drawn. The first of Mooncake's four schedulers."""

import random
from collections.abc import Sequence

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster


class Policy(Placement):
    """`seed` decides every draw."""

    def __init__(self, seed: float = 1) -> None:
        self._random = random.Random(seed)

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        if call.hold is not None:
            return [call.hold.outlook]
        return [roster.nth(self._random.randrange(len(roster)))]

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return False
