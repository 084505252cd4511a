"""Programs run in the order in which they would end if all shared the memory equally: Justitia ([N], [M]).

A program costs its KV's token-time, p * d + d ** 2 / 2 for each call. The order is that of virtual finish in the fluid
system (fairness.py), and one program after the other gets all it can use; each ends at most 2 c_max + C_max / M after
it would have ended there. Reconstruction: the mean cost of programs of the kind stands for the learned predictor.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.expected.virtual_finish, call.program.started, call.arrived)
