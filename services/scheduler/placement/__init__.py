"""Placements: where a call runs. Each file here is one policy, by its name; keywords are its settings.

A policy only compares ways to run a call (prospects.py); dispatch.py finds them, keeps the ledgers and holds calls.
"""

import sys
from typing import Protocol, cast

from services.common import policies
from services.scheduler.prospects import Way
from services.scheduler.records import Call


class Placement(Protocol):
    """Compares."""

    def cost(self, call: Call, way: Way) -> float:
        """Smaller is better."""
        ...


def names() -> list[str]:
    """The policies there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Placement:
    """The policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    return cast("Placement", policies.load(sys.modules[__name__], name, params))
