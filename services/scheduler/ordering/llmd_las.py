"""Programs that were served few tokens lately go first: least attained service of llm-d's program-aware fairness [R].

Attained is prompt + 2 * output tokens of finished calls, decayed by 0.995 at every pick. All programs decay alike, so
their order needs no clock: it is that of ln(tokens) + 0.005 * picks, kept up as a sum. Differs: theirs adds a fifth of
the (normalised) age of the oldest call, which here only breaks ties, and forgets only what has calls waiting.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.expected.decayed_service, call.arrived)
