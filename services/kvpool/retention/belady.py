"""Belady: evict what is needed again last. Replays only: it must be told the future (`next_use` of threads, or of
programs where no threads are told apart)."""

from collections.abc import Iterable
from math import inf

from services.kvpool.segment import Pressure, Program, Segment, Thread


class Policy:
    """The density of Point(next use) at equal gain and bytes."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        users: Iterable[Thread | Program] = segment.threads.values() or segment.programs.values()
        next_use = min((user.next_use for user in users), default=inf)
        return 1.0 / (1.0 + max(0.0, next_use - now))
