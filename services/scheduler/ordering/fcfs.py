"""First come, first served."""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.arrived,)
