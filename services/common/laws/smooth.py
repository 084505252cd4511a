"""Laws with a formula: a known time, exponential, Lomax, Weibull, log-normal."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, expm1, inf, isinf, log, log1p, sqrt

from services.common.laws.law import SHORT, integral

_SPREAD = (SHORT, 0.1, 0.3, 0.6, 1.0, 1.6, 2.5, 4.0, 8.0)
"""Horizons of a smooth law, in units of its scale."""
_SURELY = 1e-12
"""A survival below this is past what differences of doubles can tell."""


@dataclass(frozen=True, slots=True)
class Point:
    """Known: T = `seconds`. When that has passed, it is due at any moment. Infinite: never."""

    seconds: float

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return 1.0 if self.seconds - elapsed <= tau and self.seconds < inf else 0.0

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        return min(max(self.seconds - elapsed, 0.0), tau)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return () if isinf(self.seconds) else (max(self.seconds - elapsed, 0.0),)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless, `rate` per second."""

    rate: float

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return -expm1(-self.rate * tau)

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        return self.cdf(tau) / self.rate if self.rate > 0 else tau

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return tuple(unit / self.rate for unit in _SPREAD) if self.rate > 0 else ()


@dataclass(frozen=True, slots=True)
class Lomax:
    """Heavy-tailed: survival (1 + t/scale)^-shape. Also what is predicted of a Poisson process whose rate has a
    Gamma(shape, scale) posterior: the next event after `shape` of them in `scale` seconds."""

    shape: float
    scale: float

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return -expm1(-self.shape * log1p(tau / (self.scale + elapsed)))

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        scale = self.scale + elapsed
        less = self.shape - 1
        growth = log1p(tau / scale)
        return scale * growth if abs(less) < 1e-9 else -scale * expm1(-less * growth) / less

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        return tuple(unit * (self.scale + elapsed) for unit in _SPREAD)


@dataclass(frozen=True, slots=True)
class Weibull:
    """Survival exp(-(t/scale)^shape): shape above 1 grows due, below 1 grows stale."""

    shape: float
    scale: float

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        return -expm1(self._hazard(elapsed) - self._hazard(elapsed + tau))

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        done = self._hazard(elapsed)
        if done > 1e4:  # so late, what is left of the elapsed time's own digits is too little to integrate over
            return Exponential(self.shape * done / elapsed).truncated_mean(tau)
        # Beyond 30 units of hazard nothing is left to integrate.
        end = min(tau, self.scale * (done + 30.0) ** (1 / self.shape) - elapsed)
        return integral(lambda time: exp(done - self._hazard(elapsed + time)), end)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        done = self._hazard(elapsed)
        return tuple(max(self.scale * (done + unit) ** (1 / self.shape) - elapsed, 1e-9) for unit in _SPREAD)

    def _hazard(self, time: float) -> float:
        return (time / self.scale) ** self.shape


@dataclass(frozen=True, slots=True)
class LogNormal:
    """log T is normal with `mu` and `sigma` > 0."""

    mu: float
    sigma: float

    def cdf(self, tau: float, elapsed: float = 0.0) -> float:
        left = self._survival(elapsed)
        if left < _SURELY:
            return self._far(elapsed).cdf(tau)
        return 1.0 - self._survival(elapsed + tau) / left

    def truncated_mean(self, tau: float, elapsed: float = 0.0) -> float:
        left = self._survival(elapsed)
        if left < _SURELY:
            return self._far(elapsed).truncated_mean(tau)
        return min(max((self._mean_below(elapsed + tau) - self._mean_below(elapsed)) / left, 0.0), tau)

    def horizons(self, elapsed: float = 0.0) -> Sequence[float]:
        # Residual times are of the order of the median at first and of the elapsed time over the hazard later.
        unit = exp(self.mu) + elapsed * self.sigma / (1 + max(0.0, (log(elapsed) - self.mu) if elapsed > 0 else 0.0))
        return tuple(times * unit for times in _SPREAD)

    def _survival(self, time: float) -> float:
        return 1.0 if time <= 0 else 0.5 * erfc((log(time) - self.mu) / self.sigma / sqrt(2))

    def _mean_below(self, time: float) -> float:
        """E[min(T, time)]."""
        if time <= 0:
            return 0.0
        z = (log(time) - self.mu) / self.sigma
        mean = exp(self.mu + self.sigma**2 / 2)
        return mean * 0.5 * erfc((self.sigma - z) / sqrt(2)) + time * self._survival(time)

    def _far(self, elapsed: float) -> Exponential:
        """What is left of the far tail: the hazard there is nearly constant (Mills' ratio)."""
        return Exponential((log(elapsed) - self.mu) / (self.sigma**2 * elapsed))
