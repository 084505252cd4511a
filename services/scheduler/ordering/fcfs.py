"""First come, first served."""

from math import inf

from services.scheduler.records import Call


class Policy:
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.arrived,)

    def promotes_at(self, call: Call) -> float:
        return inf
