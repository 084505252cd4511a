"""The lowest "Gittins rank" of what is left of the program goes first: Hermes (arXiv 2506.14851; [R] its code).

The functional is theirs, E[R | R <= D] / P(R <= D) over ten buckets, which is not Gittins' index (rank.py has both).
Reconstruction: their laws come from walks through a graph of the program's stages; here they are whole programs of the
kind that ended, less what this one was served, or the forecast.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.rank import hermes
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters."""

    def rank(self, call: Call) -> tuple[float, ...]:
        expected = call.expected
        return (hermes(expected.past, expected.attained_seconds), call.program.started, call.arrived)
