"""ScaleSim (2601.21473; algorithms.md 1.4): evict the greatest invocation distance, how far a program's next call is in
the application's own order, the least over its users.

Reconstruction: where the application tells no distance, the remaining gap takes its place, as its space manager does
below a threshold: the mean gap (of at most `longest_seconds`) less what has passed, in ticks of `tick_seconds`.
"""

from math import inf

from services.kvpool.segment import Pressure, Program, Segment


class Policy:
    """The density of Point(distance) at equal gain and bytes."""

    def __init__(self, tick_seconds: float = 1.0, longest_seconds: float = 3600.0) -> None:
        self._tick_seconds = tick_seconds
        self._longest_seconds = longest_seconds

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        distances = (self._distance(program, now) for program in segment.programs.values())
        return 1.0 / (1.0 + min(distances, default=inf))

    def _distance(self, program: Program, now: float) -> float:
        if program.num_running:
            return 0.0
        if program.steps_to_execution < inf or program.returns is None:
            return program.steps_to_execution
        gap = program.returns.truncated_mean(self._longest_seconds)
        return max(0.0, gap - (now - program.idle_since)) / self._tick_seconds
