"""Short prompts to the least used engine, long ones to their program's: Autellix's load balancer (arXiv 2502.13965).

A prompt of at most 2,048 tokens saves little by a cache and goes where fewest calls are. A longer one goes to the
engine in its program's row of the process table, which is the least used one when the program first needs it (read in
the paper). Reconstruction: a call waits for its engine here, in the scheduler, instead of in the engine's own queue.
"""

from collections.abc import Sequence

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.roster import Roster


class Policy(Placement):
    """`short_tokens`: the longest prompt that goes anywhere."""

    def __init__(self, short_tokens: float = 2048) -> None:
        self._short_tokens = short_tokens

    def nominate(self, call: Call, roster: Roster) -> Sequence[Outlook] | None:
        pinned = roster.outlooks.get(call.program.pinned)
        free = self._short(call) or pinned is None or pinned.worker.avoided_by(call)
        return None if pinned is None or free else [pinned]

    def cost(self, call: Call, way: Way, now: float) -> float:
        return way.outlook.claimed

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return self._short(call) or other.worker_id != call.program.pinned

    def placed(self, call: Call, outlook: Outlook) -> None:
        if not self._short(call):
            call.program.pinned = outlook.worker_id

    def _short(self, call: Call) -> bool:
        return call.prompt_tokens <= self._short_tokens
