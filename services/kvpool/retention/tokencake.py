"""Tokencake (2510.18586; algorithms.md 1.5, constants from its public vLLM port): what gains most by leaving while its
tool runs goes first.

Leaving gains nothing unless the rest of the tool's time is longer than moving the bytes out and in. The score is that
of the port, without its terms for waiting requests, CPU room, static importance and churn, which a pool does not see.
The rest of the tool's time is the mean of the law of return in place of the port's EWMA for each function.
"""

from math import inf

from services.kvpool.segment import Pressure, Program, Segment


class Policy:
    """`offload` is the paper's rule: the sign of the density of Point(rest) with two tiers."""

    def __init__(
        self, bytes_per_second: float = 12e9, lead_seconds: float = 0.1, longest_seconds: float = 3600.0
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._lead_seconds = lead_seconds
        self._longest_seconds = longest_seconds

    def offload(self, rest_seconds: float, num_bytes: float) -> bool:
        """Whether moving out and in fits into the rest of the tool's time."""
        return rest_seconds > self.transfer_seconds(num_bytes)

    def transfer_seconds(self, num_bytes: float) -> float:
        """Out and in."""
        return 2 * num_bytes / self._bytes_per_second

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        rest = min((self._rest(program, now) for program in segment.programs.values()), default=inf)
        transfer = self.transfer_seconds(segment.num_bytes)
        if not self.offload(rest, segment.num_bytes):
            return 50.0 + transfer - rest  # above all that may leave
        score = min(6.0, (rest - transfer) / max(0.25, transfer)) + 6.0 * max(0.0, pressure.used_fraction - 0.6)
        score += 1.0 if rest >= 2 * transfer else -1.0
        score -= 2.0 if rest <= self._lead_seconds else 0.0
        # Scores are between -3 and 10; equal ones go by how long the rest is.
        return 20.0 - score - rest / (1.0 + rest) if rest < inf else 0.0

    def _rest(self, program: Program, now: float) -> float:
        if program.num_running:
            return 0.0
        if program.returns is None:
            return self._longest_seconds
        return program.returns.truncated_mean(self._longest_seconds, max(0.0, now - program.idle_since))
