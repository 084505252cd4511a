"""Laws that programs are drawn from, and the real workloads they were fitted to.

A lognormal is fixed by the p50 and p90 of a row of the trace statistics (`bench/README.md` names the data sets and
their sources) and clipped at the row's smallest plausible value and its maximum. Numbers are those of the source;
`Scale` divides them so that a tiny model on a CPU runs the same shapes in a minute.
"""

import math
import random
from dataclasses import dataclass

_Z90 = 1.2815515655446004
"""The standard normal's 90th percentile."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the source's numbers are divided by."""

    context: float
    output: float
    calls: float = 1.0
    gaps: float = 10.0


@dataclass(frozen=True, slots=True)
class Lognormal:
    """The lognormal with this median and 90th percentile, clipped."""

    p50: float
    p90: float
    low: float
    high: float

    def draw(self, rng: random.Random, divide: float = 1.0) -> float:
        sigma = math.log(self.p90 / self.p50) / _Z90
        value = self.p50 * math.exp(sigma * rng.gauss(0.0, 1.0))
        return min(max(value, self.low), self.high) / divide

    def count(self, rng: random.Random, divide: float = 1.0, least: int = 1) -> int:
        """A whole number of at least `least`."""
        return max(least, round(self.draw(rng, divide)))


TOOL_SECONDS = {
    "Bash": Lognormal(1.21, 10.2, 0.01, 120.0),
    "Read": Lognormal(0.016, 0.054, 0.005, 3.0),
    "Edit": Lognormal(0.027, 0.06, 0.005, 0.5),
    "TodoWrite": Lognormal(0.017, 0.043, 0.005, 0.5),
    "Grep": Lognormal(0.028, 0.058, 0.005, 3.0),
    "Glob": Lognormal(0.03, 0.23, 0.005, 6.0),
}
"""Latency by tool in agentcgroup_claude_code (p50 / p90 as published; the clip stands a little beyond p99)."""

TOOL_WEIGHTS = {"Bash": 3956, "Read": 1506, "Edit": 765, "TodoWrite": 630, "Grep": 600, "Glob": 230}
"""How often each was called there, of 7,846 tool calls."""


def tool(rng: random.Random) -> str:
    """A tool's name, as often as in agentcgroup_claude_code."""
    return rng.choices(list(TOOL_WEIGHTS), weights=list(TOOL_WEIGHTS.values()))[0]
