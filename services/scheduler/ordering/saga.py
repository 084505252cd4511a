"""Tenants share by the urgency of their programs: Agent Fair Share (SAGA, arXiv 2605.00528; [A], [R] public files).

    urgency of a tenant = sum over its programs of remaining service / (deadline - now), capacity in proportion

A program without a deadline is due after 1.5 of what its kind takes. A call that has waited `patience_seconds` and
whose program is more than `ratio` times as urgent as the mean goes first (theirs preempts). Reconstruction: capacity is
shared by start tags with those weights, taken when the call is queued, rather than by epochs of 100 ms; the bound is
that of fairness.py for the weights as they were then. Their BFS/DFS queueing is left out.
"""

from math import inf

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """See the module."""

    def __init__(self, patience_seconds: float = 0.5, ratio: float = 2.0) -> None:
        if patience_seconds < 0 or ratio <= 0:
            raise ValueError("saga: need patience_seconds >= 0, ratio > 0")
        self._patience_seconds = patience_seconds
        self._ratio = ratio

    def rank(self, call: Call) -> tuple[float, ...]:
        return (float(not call.promoted), call.expected.urgent.start, call.arrived)

    def promotes_at(self, call: Call) -> float:
        if call.promoted or call.expected.urgency <= self._ratio:
            return inf
        return call.waiting_since + self._patience_seconds
