"""Calls of agents that are near the end of their programs go first, older programs first among them: Kairos (arXiv
2508.06948; [A], [M]).

The paper embeds agents by Wasserstein distances between their laws of remaining latency and ranks them by the distance
to an agent with none left. Where the laws are ordered that is the order of their means (algorithms.md 2.3), which is
what is used here; where they cross it is an approximation. Latency: from the call's submission to the end of its
program, waits and tools included, of what ended before.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.expected.latency_seconds, call.program.started, call.arrived)
