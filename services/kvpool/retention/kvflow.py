"""KVFlow (2507.07400; algorithms.md 1.3): evict what is most steps from execution, a shared prefix at the least steps
of its users, what nobody will run (a varying suffix) first.

Steps are clipped at `clip`, unknown ones count as one more, nobody's as two more, as in the authors' code
(`evict_pri_level` 4). Ties go by last use. Steps must be declared by a workflow; without any this is LRU.
"""

from math import inf

from services.kvpool.segment import Pressure, Segment


class Policy:
    """The density of Point(steps) at equal gain and bytes."""

    def __init__(self, clip: float = 4.0) -> None:
        self._clip = clip

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        if not segment.programs:
            return 1.0 / (self._clip + 3.0)
        if any(program.num_running for program in segment.programs.values()):
            return 1.0
        steps = min(program.steps_to_execution for program in segment.programs.values())
        return 1.0 / (1.0 + (min(steps, self._clip) if steps < inf else self._clip + 1.0))
