"""Laws put together of others: mixtures, residuals, the first and the last of several, tables."""

from collections.abc import Iterable, Sequence
from math import inf, prod

from services.common.laws.empirical import Empirical
from services.common.laws.law import Law, integral
from services.common.laws.smooth import Point

_MOST_HORIZONS = 24


class Mixture:
    """One of several laws, each with a weight above 0: which one, the elapsed time tells more and more."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Iterable[tuple[float, Law]]) -> None:
        self._parts = tuple(parts)
        if not self._parts:
            raise ValueError("a mixture needs parts")

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        parts = self._left(elapsed)
        return sum(weight * law.cdf(tau, elapsed) for weight, law in parts) / sum(weight for weight, _ in parts)

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        parts = self._left(elapsed)
        return sum(weight * law.truncated_mean(tau, elapsed) for weight, law in parts) / sum(
            weight for weight, _ in parts
        )

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return _merged((law, elapsed) for _, law in self._left(elapsed))

    def _left(self, elapsed: float) -> Sequence[tuple[float, Law]]:
        """The parts with their weights once `elapsed` has passed; as at the start where none should be left."""
        if elapsed <= 0:
            return self._parts
        left = [(weight * (1.0 - law.cdf(elapsed)), law) for weight, law in self._parts]
        left = [part for part in left if part[0] > 0]
        return left or self._parts


NEVER = Point(inf)


def sometimes(law: Law, never: float) -> Law:
    """The law, but with probability `never` it does not happen at all."""
    if never <= 0:
        return law
    return NEVER if never >= 1 else Mixture(((1.0 - never, law), (never, NEVER)))


def learned(samples: Sequence[float], prior: Law, prior_weight: float) -> Law:
    """Samples blended with a prior that counts as `prior_weight` of them: few samples say little, and past the last
    one the prior's tail takes over."""
    return Mixture(((float(len(samples)), Empirical(samples)), (prior_weight, prior))) if samples else prior


class After:
    """What is left of a law when `seconds` have passed without it: the residual, counted anew from 0."""

    __slots__ = ("_law", "_seconds")

    def __init__(self, law: Law, seconds: float) -> None:
        self._law = law
        self._seconds = seconds

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return self._law.cdf(tau, self._seconds + elapsed)

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        return self._law.truncated_mean(tau, self._seconds + elapsed)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return self._law.horizons(self._seconds + elapsed)


class Minimum:
    """The first of independent times: an OR join, KV that several share. Each law has its own elapsed time."""

    __slots__ = ("_laws",)

    def __init__(self, laws: Sequence[tuple[Law, float]]) -> None:
        self._laws = laws

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return 1.0 - self._survival(tau, elapsed)

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        return integral(lambda time: self._survival(time, elapsed), tau)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return _merged((law, done + elapsed) for law, done in self._laws)

    def _survival(self, tau: float, elapsed: float) -> float:
        return prod(1.0 - law.cdf(tau, done + elapsed) for law, done in self._laws)


class Maximum:
    """The last of independent times: an AND join. Which of them have happened is told by leaving them out."""

    __slots__ = ("_laws",)

    def __init__(self, laws: Sequence[tuple[Law, float]]) -> None:
        self._laws = laws

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        past = self._all(elapsed)
        return (self._all(elapsed + tau) - past) / (1.0 - past) if past < 1.0 else 1.0

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        return integral(lambda time: 1.0 - self.cdf(time, elapsed), tau)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return _merged((law, done + elapsed) for law, done in self._laws)

    def _all(self, time: float) -> float:
        return prod(law.cdf(time, done) for law, done in self._laws) if time > 0 else 0.0


def minimum(laws: Sequence[tuple[Law, float]]) -> Law:
    """The first of independent times, given as (law, how long it has not happened already)."""
    return After(*laws[0]) if len(laws) == 1 else Minimum(laws)


def maximum(laws: Sequence[tuple[Law, float]]) -> Law:
    """The last of independent times, given as (law, how long it has not happened already)."""
    return After(*laws[0]) if len(laws) == 1 else Maximum(laws)


def _merged(laws: Iterable[tuple[Law, float]]) -> list[float]:
    """The horizons of all, thinned out."""
    times = sorted({tau for law, elapsed in laws for tau in law.horizons(elapsed)})
    stride = max(1, -(-len(times) // _MOST_HORIZONS))
    return times[::-1][::stride][::-1]
