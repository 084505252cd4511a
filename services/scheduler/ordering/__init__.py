"""Orderings: which ready call goes next. Each file here is one policy, by its name; keywords are its settings.

A policy only ranks: it owns nothing and sees no clock. Higher call priority, then restarted calls, then the policy's
rank, then arrival decide, in this order.
"""

import sys
from math import inf
from typing import Protocol, cast

from services.common import policies
from services.scheduler.records import Call


class Ordering(Protocol):
    """Ranks queued calls."""

    def rank(self, call: Call) -> tuple[float, ...]:
        """Smaller goes first. Asked when the call is queued and when it is promoted; always of one length."""
        ...

    def promotes_at(self, call: Call) -> float:
        """When a call that still waits has starved: `promoted` is set and its rank asked again. inf: never."""
        return inf

    def level(self, call: Call) -> int:
        """What the engine is told with the call: 0 first, below `LEVELS` of services/common/urgency.py; the less urgent
        one gives way where engines preempt (vLLM: when blocks run out). Asked with the rank."""
        return 0


def names() -> list[str]:
    """The policies there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Ordering:
    """The policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    return cast("Ordering", policies.load(sys.modules[__name__], name, params))
