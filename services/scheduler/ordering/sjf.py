"""The call that is expected to take least goes first: shortest job first, of calls, by mean engine seconds.

Its prefill is known but for what is cached; its output is what its tenant and agent made before, or what is forecast.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.rank import octave
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters, and starves long calls."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.expected.service_seconds, call.arrived)

    def level(self, call: Call) -> int:
        return octave(call.expected.service_seconds)
