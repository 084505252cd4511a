"""The earliest deadline of a program goes first; without one, after all that have one, in order of arrival."""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.program.deadline, call.arrived)
