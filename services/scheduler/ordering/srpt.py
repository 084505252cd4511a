"""The program that has least left goes first: shortest remaining processing time, by the mean of what is believed.

With forecasts that are the truth this is the oracle that minimises the mean completion time on one server that can be
preempted (Schrage 1968); learned laws make it shortest expected remaining time.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.rank import mean, octave
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters, and starves long programs."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (mean(call.expected.remaining, call.expected.attained_seconds), call.program.started, call.arrived)

    def level(self, call: Call) -> int:
        return octave(mean(call.expected.remaining, call.expected.attained_seconds))
