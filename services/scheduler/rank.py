"""Rank: the one key of which the orderings here are cases (algorithms.md 2.2), and the functionals it is made of.

    key = ln Phi[law of remaining service | attained] - ln(weight) - lam_i * IG - lam_x * X + urgency * time

Smaller goes first. `time` is when the call arrived or, with a deadline, when it must start at the latest: urgency that
grows exponentially, exp(urgency * waited), divides Phi (HexGen's and JITServe's U in 2.2). As it grows alike for all,
the order of two waiting calls never changes, so a key is computed once; and a call can be overtaken only by calls that
arrive within ln(ratio of the other factors) / urgency seconds after it: nobody starves. Logarithms change no order.
"""

from collections.abc import Callable
from math import inf, log

from services.common.laws import Exponential, Hazard, Law, Lomax, Point, Quantiles
from services.scheduler.records import Call

Functional = Callable[[Law, float, float], float]
"""(law of the whole, attained, seconds that must be run before anything else can be chosen) -> seconds."""

_LEAST = 1e-6
"""Seconds; stands for 0 under a logarithm."""
_LEAST_PEAK = 1e-12
_FAR = 1e9
"""Seconds; stands for never where sums are made of what remains."""
_DOUBLINGS = 7
_BUCKETS = 10


def gittins(law: Law, attained: float, least: float = 0.0) -> float:
    """Inverse of Gittins' index: inf over D >= least of E[min(R, D)] / P(R <= D), R what remains. It minimises the mean
    response time of jobs whose law is known (Gittins; Aalto, Ayesta, Righter 2009, for M/G/1).

    `least`: a call is not interrupted, so service is bought in portions of at least one call.
    """
    match law:
        case Point():
            return law.truncated_mean(inf, attained)
        case Exponential():
            return 1.0 / law.rate if law.rate > 0 else inf
        case Lomax() if not least:
            return (law.scale + attained) / law.shape
        case Hazard() | Quantiles():
            return 1.0 / max(law.peak(attained, least), _LEAST_PEAK)
        case _:
            pass
    best = law.truncated_mean(_FAR, attained)
    portions = (least * 2**power for power in range(_DOUBLINGS)) if least else ()
    for tau in (*portions, *law.horizons(attained)):
        if tau >= least and (chance := law.cdf(tau, attained)) > 0:
            best = min(best, law.truncated_mean(tau, attained) / chance)
    return best


def mean(law: Law, attained: float, least: float = 0.0) -> float:
    """E[R]: what SRPT takes for the size when sizes are not known."""
    if isinstance(law, Hazard | Quantiles):
        return min(law.mean(attained), _FAR)
    return law.truncated_mean(_FAR, attained)


def hermes(law: Law, attained: float, least: float = 0.0) -> float:
    """What the code of Hermes (arXiv 2506.14851) calls its Gittins rank: min over 10 buckets of equal width of
    E[R | R <= D] / P(R <= D). Gittins has E[min(R, D)] there. The last bucket ends at the greatest sample; of a law
    without one, at its last horizon."""
    horizons = law.horizons(attained)
    if not horizons:
        return mean(law, attained)
    best = inf
    for bucket in range(1, _BUCKETS + 1):
        tau = horizons[-1] * bucket / _BUCKETS
        if (chance := law.cdf(tau, attained)) > 0:
            within = law.truncated_mean(tau, attained) - tau * (1.0 - chance)
            best = min(best, within / chance**2)
    return best


def ln(seconds: float) -> float:
    """Of a time that may be 0 or infinite."""
    return log(min(max(seconds, _LEAST), 1e12))


def octave(seconds: float) -> int:
    """A level by powers of 2 of service, from a quarter of a second on: what engines are told."""
    return min(max(int(log(min(max(seconds, _LEAST), _FAR) / 0.25, 2) + 1), 0), 31)


def due(call: Call, slack: float) -> float:
    """When the call's program is wanted complete; without a deadline, after `slack` times what its kind takes without
    waiting."""
    deadline = call.program.deadline
    return deadline if deadline < inf else call.program.started + slack * call.expected.span_seconds


def latest_start(call: Call, due_at: float) -> float:
    """Of the call, if each call of its program is to have its part of the time that is left, by its service."""
    expected = call.expected
    service = max(expected.service_seconds, _LEAST)
    left = max(mean(expected.remaining, expected.attained_seconds), service)
    return call.arrived + (due_at - call.arrived) * service / left - service


def time_to_live(law: Law, gain_seconds: float) -> float:
    """How long to keep what is worth `gain_seconds` if it is back by then and costs its time: argmax over tau of
    P(T <= tau) * gain - tau (Continuum)."""
    best, ttl = 0.0, 0.0
    for tau in law.horizons():
        if tau >= gain_seconds:
            break
        if (worth := law.cdf(tau) * gain_seconds - tau) > best:
            best, ttl = worth, tau
    return ttl
