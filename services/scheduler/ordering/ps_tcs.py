"""Programs of the most uncertain kind go first, a fixed priority for each kind: PS-TCS (IWQoS 2024; [A], [M]).

Theirs ranks applications by topological complexity, the most uncertain planner first, so that what the rest depends on
is known early. Reconstruction: uncertainty is the entropy of the service that programs of the kind took.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (-call.expected.uncertainty, call.program.started, call.arrived)
