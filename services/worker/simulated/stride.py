"""A run of engine steps of the same make-up, as one thing: when each ends.

Of the steps in a stride only two things differ, the contexts that the decoding calls read and the tokens that a long
prompt attends to, and both grow by the same amount each step. A step's duration is affine in them, so durations are an
arithmetic series.
"""

import math
from typing import NamedTuple


class Stride(NamedTuple):
    """`num_steps` steps from `begin` on; the first lasts `first` seconds and each next one `growth` longer."""

    begin: float
    first: float
    growth: float = 0.0
    num_steps: int = 1

    def duration(self, step: int) -> float:
        """Seconds of the step of that index, from 0."""
        return self.first + self.growth * step

    def end(self, num_steps: int) -> float:
        """When so many steps are over."""
        return self.begin + num_steps * (self.first + self.growth * (num_steps - 1) / 2)

    @property
    def due(self) -> float:
        """When all are over."""
        return self.end(self.num_steps)

    def completed(self, now: float) -> int:
        """How many steps are over at `now`."""
        elapsed = now - self.begin
        if elapsed <= 0:
            return 0
        # first * n + growth * n * (n - 1) / 2 = elapsed; written so that no growth is no special case.
        linear = self.first - self.growth / 2
        root = math.sqrt(max(linear * linear + 2 * self.growth * elapsed, 0.0))
        steps = min(int(2 * elapsed / (linear + root)), self.num_steps)
        # The root is off by a rounding; the ends are what counts.
        while steps < self.num_steps and self.end(steps + 1) <= now:
            steps += 1
        while steps > 0 and self.end(steps) > now:
            steps -= 1
        return steps

    def cut(self, completed: int) -> "Stride":
        """What is left when so many steps are over and only the one that runs is to end."""
        return Stride(self.end(completed), self.duration(completed))

    def shortened(self, until: float) -> "Stride":
        """Without the steps that would begin at `until` or later, the first excepted."""
        if self.due < until:
            return self
        over = self.completed(until)
        steps = over if over and self.end(over) == until else over + 1
        return self if steps >= self.num_steps else Stride(self.begin, self.first, self.growth, steps)
