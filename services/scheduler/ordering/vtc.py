"""The tenant that was served least goes first, each by its weight: VTC (Sheng et al., OSDI 2024; [M]).

VTC counts what each tenant was served, lifts who comes back to the least of those that wait, and picks the lowest count
at every dispatch. Here a call gets its start tag when it is queued (start-time fair queueing, fairness.py): the same
lift, and the same kind of bound: while two tenants both have calls waiting, what they got differs by at most one call
of each over its weight (VTC: twice the greatest batch). Differs: costs are expected when the tag is given and mended
with the tenant's next one, and they are engine seconds rather than weighted tokens.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters; the weights are `tenant_weights`."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.expected.fair.start, call.arrived)
