"""What keeping something is worth: the density of algorithms.md 2.4, which most retention policies are cases of.

    density = max over tau of  P(T <= tau | T > elapsed) * gain / (num_bytes * E[min(T - elapsed, tau) | T > elapsed])

with T the time to the next use. The tau that reaches it is how long it is worth keeping (its TTL).
"""

from math import inf
from typing import Literal

from services.common.laws import Hazard, Law, Quantiles

Charge = Literal["expected", "horizon"]
"""What room costs: for as long as it is expected to be taken, or for all of tau (as Continuum counts)."""
NOW = 1e-3
"""Seconds. No use is sooner than this, so that densities stay finite."""


def density(
    law: Law, elapsed: float, gain: float, num_bytes: float, charge: Charge = "expected"
) -> tuple[float, float]:
    """Density, in gain for each byte-second, and the tau that reaches it; (0, 0) where nothing is gained."""
    best, best_tau = 0.0, 0.0
    for tau in law.horizons(elapsed):
        held = law.truncated_mean(tau, elapsed) if charge == "expected" else tau
        ratio = law.cdf(tau, elapsed) / max(held, NOW)
        if ratio > best:
            best, best_tau = ratio, tau
    return best * gain / num_bytes, best_tau


def keep_for(law: Law, elapsed: float, gain: float, price: float, charge: Charge = "expected") -> tuple[float, float]:
    """Most that can be had when room costs `price` a second: max over tau of P * gain - price * time, and that tau;
    (0, 0) where nothing is worth its room. The density is the price at which this reaches 0."""
    best, best_tau = 0.0, 0.0
    for tau in law.horizons(elapsed):
        held = law.truncated_mean(tau, elapsed) if charge == "expected" else tau
        profit = law.cdf(tau, elapsed) * gain - price * held if held < inf else -inf
        if profit > best:
            best, best_tau = profit, tau
    return best, best_tau


def rate(law: Law, elapsed: float) -> float:
    """The density of one unit of gain for each byte: uses a second, at best."""
    if isinstance(law, Quantiles):
        return law.peak(elapsed, NOW)
    return law.peak(elapsed) if isinstance(law, Hazard) else density(law, elapsed, 1.0, 1.0)[0]
