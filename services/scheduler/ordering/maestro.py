"""Interactive programs first, batch last, and by their deadlines within a class: Maestro (arXiv 2606.12950; [A], [N]).

Its priority is known as "workflow-aware, interactive first"; the rest is a reconstruction: within a class the program
that is due first goes first (Maestro is compared with EDF), one without a deadline being due after `slack` times what
its kind takes without waiting.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.rank import due
from services.scheduler.records import Call


class Policy(Ordering):
    """`slack`: what a program without a deadline may take, in spans of its kind."""

    def __init__(self, slack: float = 5.0) -> None:
        if slack <= 0:
            raise ValueError("maestro: need slack > 0")
        self._slack = slack

    def rank(self, call: Call) -> tuple[float, ...]:
        return (float(call.program.service_class), due(call, self._slack), call.arrived)
