"""InferCept (ICML'24; algorithms.md 1.20): keep while the memory wasted by keeping is less than that by discarding.

Keeping wastes tokens * remaining time; discarding wastes what computing it again takes: the memory that fills up
meanwhile (half of it on average) and that of the requests which wait (`running_tokens`, a setting: a pool does not see
them). Swapping is the pool's business, not the policy's. An unknown remaining time is taken to be what has elapsed
(from memory). The rank is the ratio of the two wastes: 1 is indifference.
"""

from math import inf

from services.kvpool.segment import Pressure, Program, Segment


class Policy:
    """The density of Point(remaining) with the discarding waste as gain and tokens as bytes."""

    def __init__(self, running_tokens: float = 8192.0) -> None:
        self._running_tokens = running_tokens

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        remaining = min((_remaining(program, now) for program in segment.programs.values()), default=inf)
        return self.discard_waste(segment) / self.preserve_waste(segment, max(remaining, 1e-3))

    def preserve_waste(self, segment: Segment, remaining_seconds: float) -> float:
        """Token-seconds."""
        return remaining_seconds * max(1, segment.num_tokens)

    def discard_waste(self, segment: Segment) -> float:
        """Token-seconds."""
        return segment.recompute_seconds * (segment.num_tokens / 2 + self._running_tokens)


def _remaining(program: Program, now: float) -> float:
    return 0.0 if program.num_running else now - program.idle_since
