"""Placements: where a call runs. Each file here is one policy, by its name; keywords are its settings.

A policy compares ways to run a call (prospects.py); dispatch.py finds them, keeps the ledgers and holds calls. It owns
nothing but what its own rule needs, and inherits from `Placement` what it has no opinion on.
"""

import sys
from collections.abc import Sequence
from typing import Protocol, cast

from services.common import policies
from services.scheduler.outlook import Outlook
from services.scheduler.pools import Reach
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster
from services.scheduler.supply import Supply, supply


class Placement(Protocol):
    """Compares. What it does not define: earliest predicted completion, and no slot idles while a call waits."""

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        """The workers to compare, where the usual candidates would not do. None: those."""
        return None

    def supply(self, call: Call, outlook: Outlook, cached_blocks: int, reach: Reach | None) -> Supply:
        """What of the prompt the worker would have in its cache or bring."""
        return supply(cached_blocks, outlook.pool_id, outlook.block_seconds, reach)

    def cost(self, call: Call, way: Way, now: float) -> float:
        """Smaller is better; on a tie the first one nominated. inf: never like this."""
        return way.cost

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        """May an idle worker take the call? It waits, or would, for `other`, at that cost."""
        return True

    def refuses(self, call: Call, best: Way) -> bool:
        """The call is better refused than run so late."""
        return False

    def placed(self, call: Call, outlook: Outlook) -> None:
        """The call goes there now."""


def names() -> list[str]:
    """The policies there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Placement:
    """The policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    return cast("Placement", policies.load(sys.modules[__name__], name, params))
