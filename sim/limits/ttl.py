"""What it costs to keep something for a time, not knowing when it is used next (algorithms.md 3.5).

Keeping costs `rent` a second; without it, the next use costs `gain`. Who knows the time T of the next use pays
min(gain, rent * T). Ski rental without any knowledge, to keep for gain / rent, pays at most twice that.
"""

from collections.abc import Iterable
from math import inf

from services.common.laws import Law


def cost(gain: float, rent: float, ttl: float, next_use: float) -> float:
    """Of keeping for `ttl` seconds."""
    return rent * min(ttl, next_use) + (gain if next_use > ttl else 0.0)


def least_cost(gain: float, rent: float, next_use: float) -> float:
    """Knowing when it is used next."""
    return min(gain, rent * next_use) if next_use < inf else 0.0


def regret(uses: Iterable[tuple[float, float, float, float]]) -> float:
    """Of (gain, rent, ttl, next use) each: what was paid beyond the least."""
    return sum(cost(gain, rent, ttl, use) - least_cost(gain, rent, use) for gain, rent, ttl, use in uses)


def ski_rental(gain: float, rent: float) -> float:
    """The time to keep something of which nothing is known."""
    return gain / rent


def best_ttl(law: Law, gain: float, rent: float, elapsed: float = 0.0) -> float:
    """The time to keep what is used next after a time of that law: the least expected cost, 0 for not at all."""
    best, least = 0.0, gain
    for ttl in law.horizons(elapsed):
        expected = rent * law.truncated_mean(ttl, elapsed) + gain * (1.0 - law.cdf(ttl, elapsed))
        if expected < least:
            best, least = ttl, expected
    return best
