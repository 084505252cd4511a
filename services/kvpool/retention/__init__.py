"""Retention policies, one file each: what is worth keeping.

A policy ranks segments; the one with the smallest rank goes first. It owns nothing, reads no clock and logs nothing.
The constructor's keywords are its parameters in the settings (`kvpool.retention_params`).
"""

import sys
from typing import Protocol, cast

from services.common import policies
from services.kvpool.segment import Pressure, Segment


class Policy(Protocol):
    """Ranks."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        """Worth of keeping the segment: 0 is none, higher is better. Ties go by `last_used`, the older first."""
        ...


def selective(policy: Policy) -> bool:
    """Whether what ranks below all that would have to leave for it is not stored at all (`selective = True` in the
    policy's class); otherwise what is new is always stored."""
    return bool(getattr(policy, "selective", False))


def names() -> list[str]:
    """Those that there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Policy:
    """The policy of that name. Raises ValueError, saying what there is, for a wrong name or parameter."""
    return cast(Policy, policies.load(sys.modules[__name__], name, params))
