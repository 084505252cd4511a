"""The density of algorithms.md 2.4, the default: what keeping a segment gains for each byte and second of room.

    max over tau of  P(T <= tau | T > elapsed) * (min(recompute, reload) + queue delay) / (bytes * E[min(T, tau)])

T is the first use by any of its users. Users are threads, each with its own law; to them come threads that nobody knows
yet: a Poisson process whose rate is what was seen of it, Gamma-distributed, so the time to the next is a Lomax law.
The greatest ratio of a minimum of independent times is taken to be the sum of theirs. That is exact for constant and
for falling hazards, where tau is near 0, and costs one look into a table for each user. A running call's thread is a
user like any other, with the law of the time from one call to the next: a long call's KV may be worth less than that of
a tool which returns soon.
"""

from collections.abc import Iterable
from math import inf

from services.kvpool.segment import Pressure, Program, Segment, Thread
from services.kvpool.worth import rate

_UNKNOWN = 0.1
"""Returns a second, of a user without a law."""


class Policy:
    """`newcomers` in `newcomer_seconds` are what is believed of a segment that is new."""

    selective = True

    def __init__(self, newcomers: float = 0.05, newcomer_seconds: float = 100.0) -> None:
        if newcomers < 0 or newcomer_seconds <= 0:
            raise TypeError("newcomers must be at least 0 and newcomer_seconds above 0")
        self._newcomers = newcomers
        self._newcomer_seconds = newcomer_seconds

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        users: Iterable[Thread | Program] = segment.threads.values() or segment.programs.values()
        returns = sum(_rate(user, now) for user in users)
        if returns == inf:
            return inf
        age = max(0.0, now - segment.created)
        returns += (self._newcomers + segment.num_newcomers) / (self._newcomer_seconds + age)
        end = segment.first_block + segment.num_blocks
        share = segment.num_blocks / end if end else 1.0
        gain = min(segment.recompute_seconds, segment.reload_seconds) + share * pressure.queue_delay_seconds
        return returns * gain / max(1, segment.num_bytes)


def _rate(user: Thread | Program, now: float) -> float:
    if user.num_running:
        if isinstance(user, Program):
            return inf
        return _UNKNOWN if user.turns is None else rate(user.turns, max(0.0, now - user.began))
    return _UNKNOWN if user.returns is None else rate(user.returns, max(0.0, now - user.idle_since))
