"""Admissions: which programs may hold KV. Each file here is one policy, by its name; keywords are its settings.

A policy weighs what programs hold and says whether one more fits; it owns nothing. Programs pause between calls only:
those that are let in have contexts on the ledger of a worker (residents.py), calls of others wait in the lobby
(lobby.py). A policy inherits from `Admission` what it has no opinion on.
"""

import sys
from math import inf
from typing import Protocol, cast

from services.common import policies
from services.scheduler.ledger import Context, Ledger
from services.scheduler.records import Call


class Admission(Protocol):
    """Weighs. What it does not define: contexts count by their KV, up to parts of a worker's."""

    share: float = 1.0
    """Of a worker's KV, filled by letting programs in."""
    ceiling: float = inf
    """Of it, what contexts may grow to; beyond, idle ones are sent off."""

    bounded: bool = True
    """It may keep programs out."""
    patience_seconds: float = 2.0
    """After so long without a call a worker takes any program, whatever idle contexts it loses by that; without any
    context, at once. So nothing waits for ever."""
    resumes_first: bool = False
    """In the lobby, programs that ran before go before those that never did."""
    period_seconds: float = 0.0
    """How often `adjust` is called for a worker where something happens; 0: never."""

    def room(self, ledger: Ledger) -> float:
        """How much more the worker may take, in a unit of the policy's own."""
        return self.share * ledger.num_blocks - ledger.taken_blocks

    def need(self, call: Call, blocks: int) -> float:
        """What a call that would be its program's first at a worker needs there, in the same unit; `blocks`: of KV,
        without what it shares."""
        return blocks

    def reserves(self, call: Call) -> float:
        """Tokens for which a call counts until it ends."""
        return call.prompt_tokens + call.expected_output

    def weigh(self, context: Context, now: float) -> tuple[float, float] | None:
        """What part of an idle context counts, 0 to 1, and when to ask again (inf: never). None: it does not count at
        all, and its program needs to be let in anew."""
        return 1.0, inf

    def excess(self, ledger: Ledger) -> bool:
        """Is there so much that idle contexts must be sent off?"""
        return ledger.taken_blocks > self.ceiling * ledger.num_blocks

    def pause_order(self, context: Context) -> float:
        """Of idle contexts the one with the least goes first. Asked when the context falls idle."""
        return context.idle_since

    def adjust(self, ledger: Ledger, now: float) -> None:
        """Set `ledger.window`, which is 0 at first."""


def names() -> list[str]:
    """The policies there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Admission:
    """The policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    return cast("Admission", policies.load(sys.modules[__name__], name, params))
