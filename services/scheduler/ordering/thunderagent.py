"""The shortest context goes first: ThunderAgent's order of restoring programs (arXiv 2602.13692; [R]).

S_restore = 1 / tokens + 1 for programs that want to run, greatest first: recomputing grows with the square of the
context. All that waits here wants to run. Differs: theirs picks among paused programs every 5 s; a queue of calls asks
at every dispatch. Which programs pause is admission's business.
"""

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call


class Policy(Ordering):
    """Has no parameters, and starves long contexts, as theirs does."""

    def rank(self, call: Call) -> tuple[float, ...]:
        return (call.prompt_tokens, call.arrived)
