"""Where the peak of KV over the next time slots stays lowest: Kairos' time-slot dispatcher (arXiv 2508.06948).

From memory of the paper, so a reconstruction: each instance has a time line of memory in slots; a request's KV rises
linearly from its prompt to prompt + expected output over its expected time; it goes to the instance whose predicted
peak stays lowest and below capacity, else it waits for whichever has room first. Here the slots are points in time over
the request's own expected run, calls that wait for a worker count from now on, and the ledger's bound holds besides.
"""

from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call

_FULL = 1e6


class Policy(Placement):
    """`slots`: how many points in time are compared."""

    def __init__(self, slots: float = 16) -> None:
        if slots < 1:
            raise ValueError("kairos: need slots >= 1")
        self._slots = int(slots)

    def cost(self, call: Call, way: Way, now: float) -> float:
        peak = self.peak_tokens(call, way, now) / (way.outlook.num_blocks * way.outlook.block_size)
        return peak if peak <= 1 else _FULL + peak

    def peak_tokens(self, call: Call, way: Way, now: float) -> float:
        """The most tokens in the worker's KV at any slot of the call's run, with it."""
        placed = way.outlook.worker.placed.values()
        spans = [(each, each.placed_at, each.expected_end - each.placed_at) for each in placed]
        waiting = [(each, now, way.seconds) for _, each in way.outlook.line if each is not call]
        spans += [*waiting, (call, now, way.seconds)]
        peak = 0.0
        for slot in range(1, self._slots + 1):
            at = now + way.seconds * slot / self._slots
            peak = max(peak, sum(tokens(each, began, seconds, at) for each, began, seconds in spans))
        return peak


def tokens(call: Call, began: float, seconds: float, at: float) -> float:
    """Of the call in KV at that time, if it began then and runs for so long; none after its end."""
    if not began <= at <= began + seconds:
        return 0.0
    share = 1.0 if seconds <= 0 else (at - began) / seconds
    return call.prompt_tokens + share * call.remaining_output
