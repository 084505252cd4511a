"""The call that is latest for its share of its program's deadline goes first: HexGen-Flow (arXiv 2505.05286; [R] its
simulator).

    SLO_s = (deadline - arrived) * t_s / (t_s + what follows)        U = t_s - (SLO_s - waited), greatest first

U of every waiting call grows by one a second, so its order is that of the latest start, arrived + SLO_s - t_s.
Reconstruction: programs without a deadline get `slack` times what their kind takes without waiting; t is what is
expected here rather than a profile by stage.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.rank import due, latest_start
from services.scheduler.records import Call


class Policy(Ordering):
    """`slack`: what a program without a deadline may take, in spans of its kind."""

    def __init__(self, slack: float = 5.0) -> None:
        if slack <= 0:
            raise ValueError("hexgen: need slack > 0")
        self._slack = slack

    def rank(self, call: Call) -> tuple[float, ...]:
        return (latest_start(call, due(call, self._slack)), call.arrived)
