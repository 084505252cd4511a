"""Laws of random times: each against the definition, by sampling its own cdf or by its known formulas."""

import random
from math import exp, inf, isclose, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.laws import (
    EDGES,
    NEVER,
    After,
    Empirical,
    Exponential,
    Exposure,
    Hazard,
    Law,
    LogNormal,
    Lomax,
    Mixture,
    Point,
    Weibull,
    learned,
    learned_hazard,
    life_table,
    maximum,
    middle,
    minimum,
    sometimes,
)

SMOOTH: list[Law] = [
    Exponential(0.3),
    Lomax(1.0, 5.0),
    Lomax(2.5, 3.0),
    Weibull(0.6, 4.0),
    Weibull(3.0, 4.0),
    LogNormal(1.0, 0.7),
    Hazard([0.1 + 0.05 * (place % 7) for place in range(len(EDGES))]),
    Mixture(((0.3, Exponential(2.0)), (0.7, Lomax(1.5, 20.0)))),
    minimum(((Exponential(0.2), 0.0), (Weibull(2.0, 5.0), 1.0))),
    maximum(((Exponential(0.2), 0.0), (Weibull(2.0, 5.0), 1.0))),
    After(LogNormal(0.5, 1.0), 2.0),
    sometimes(Exponential(1.0), 0.2),
]
LAWS: list[Law] = [
    *SMOOTH,
    Empirical([0.5, 2.0, 2.0, 7.0, inf]),
    learned([1.0, 3.0], Lomax(1.0, 10.0), 4.0),
    Point(3.0),
]
times = st.floats(0.01, 50.0)


@given(law=st.sampled_from(SMOOTH), tau=times, elapsed=st.floats(0.0, 10.0))
def test_the_truncated_mean_is_the_integral_of_the_survival(law: Law, tau: float, elapsed: float) -> None:
    steps = 2000
    survival = sum(1.0 - law.cdf(tau * (step + 0.5) / steps, elapsed) for step in range(steps))
    assert law.truncated_mean(tau, elapsed) == pytest.approx(survival * tau / steps, rel=5e-3, abs=1e-6)


@given(law=st.sampled_from(LAWS), elapsed=st.floats(0.0, 1e4), tau=times, more=times)
def test_a_law_is_a_law(law: Law, elapsed: float, tau: float, more: float) -> None:
    near, far = law.cdf(tau, elapsed), law.cdf(tau + more, elapsed)
    assert -1e-9 <= near <= far + 1e-9 <= 1.0 + 2e-9
    short, long = law.truncated_mean(tau, elapsed), law.truncated_mean(tau + more, elapsed)
    assert -1e-9 <= short <= tau * (1 + 1e-9)
    assert short <= long * 1.01 + 1e-9  # some are integrated by a formula of few points
    horizons = list(law.horizons(elapsed))
    assert horizons == sorted(horizons)
    assert len(horizons) <= 40
    assert all(0.0 <= horizon < inf for horizon in horizons)


@given(law=st.sampled_from(SMOOTH), elapsed=st.floats(0.0, 5.0), tau=times)
def test_elapsed_time_conditions(law: Law, elapsed: float, tau: float) -> None:
    before = law.cdf(elapsed)
    both = law.cdf(elapsed + tau)
    assert law.cdf(tau, elapsed) == pytest.approx((both - before) / (1.0 - before), abs=1e-6)


def test_known_values() -> None:
    assert Exponential(0.5).truncated_mean(inf) == pytest.approx(2.0)
    assert Lomax(3.0, 4.0).truncated_mean(1e12) == pytest.approx(2.0, rel=1e-3)
    assert Lomax(1.0, 10.0).cdf(10.0) == pytest.approx(0.5)
    assert LogNormal(1.0, 0.5).truncated_mean(1e9) == pytest.approx(exp(1.125))
    assert Weibull(1.0, 2.0).truncated_mean(1e9) == pytest.approx(2.0, rel=1e-4)
    assert Point(4.0).truncated_mean(10.0, 1.0) == 3.0
    assert Point(4.0).cdf(0.0, 9.0) == 1.0  # overdue: at any moment
    assert NEVER.cdf(1e30) == 0.0
    assert not NEVER.horizons()


def test_a_law_far_in_its_tail_stays_finite() -> None:
    for law in LAWS:
        for elapsed in (1e3, 1e6, 1e9):
            assert 0.0 <= law.cdf(10.0, elapsed) <= 1.0
            assert 0.0 <= law.truncated_mean(10.0, elapsed) <= 10.0


def test_an_empirical_law_counts_its_samples() -> None:
    law = Empirical([1.0, 2.0, 4.0, inf])
    assert law.cdf(2.0) == 0.5
    assert law.truncated_mean(3.0) == pytest.approx((1 + 2 + 3 + 3) / 4)
    assert law.cdf(1.0, 1.0) == pytest.approx(1 / 3)
    assert list(law.horizons(1.0)) == [1.0, 3.0]
    with pytest.raises(ValueError, match="needs samples"):
        Empirical([])


def test_past_the_last_sample_the_prior_decides() -> None:
    law = learned([1.0, 1.0, 1.0], Lomax(1.0, 10.0), 2.0)
    assert law.cdf(0.9) < 0.1
    assert law.cdf(5.0, 100.0) == pytest.approx(Lomax(1.0, 10.0).cdf(5.0, 100.0))


def test_the_first_of_exponentials_is_one_and_the_last_takes_longer() -> None:
    first = minimum(((Exponential(0.2), 3.0), (Exponential(0.3), 0.0)))
    last = maximum(((Exponential(0.2), 3.0), (Exponential(0.3), 0.0)))
    for tau in (0.5, 2.0, 9.0):
        assert first.cdf(tau) == pytest.approx(Exponential(0.5).cdf(tau))
        assert last.cdf(tau) == pytest.approx(Exponential(0.2).cdf(tau) * Exponential(0.3).cdf(tau))
    assert last.truncated_mean(200.0) == pytest.approx(1 / 0.2 + 1 / 0.3 - 1 / 0.5, rel=1e-3)


def test_waiting_makes_never_likelier() -> None:
    law = sometimes(Exponential(1.0), 0.1)
    assert law.cdf(5.0) > 0.8
    assert law.cdf(5.0, 10.0) < 0.01


def test_a_learned_hazard_finds_the_law_also_from_what_did_not_happen() -> None:
    rng = random.Random(1)
    seen = Exposure()
    for _ in range(4000):
        wait, patience = rng.lognormvariate(1.0, 0.5), rng.expovariate(0.2)
        seen.add(min(wait, patience), happened=wait < patience)
    law = learned_hazard(seen, lambda place: 1.0 / (10.0 + middle(place)), 0.3)
    for tau in (1.0, 2.0, 4.0, 6.0):
        assert law.cdf(tau) == pytest.approx(LogNormal(1.0, 0.5).cdf(tau), abs=0.05)


def test_what_was_looked_at_late_counts_from_then_on() -> None:
    seen = Exposure()
    seen.add(10.0, happened=True, since=4.0)
    assert sum(seen.seconds()) == pytest.approx(6.0)
    assert sum(seen.events) == 1.0
    assert all(seconds >= -1e-12 for seconds in seen.seconds())


@given(rates=st.lists(st.floats(1e-6, 10.0), min_size=len(EDGES), max_size=len(EDGES)), place=st.integers(0, 60))
def test_the_table_of_peaks_is_the_best_ratio(rates: list[float], place: int) -> None:
    law = Hazard(rates)
    elapsed = EDGES[place]
    ratios = [
        law.cdf(edge - elapsed, elapsed) / law.truncated_mean(edge - elapsed, elapsed) for edge in EDGES[place + 1 :]
    ]
    best = max(ratios)
    assert law.peak(elapsed) >= best * (1 - 1e-6)
    assert isclose(law.peak(elapsed), max(best, _tail(law, elapsed)), rel_tol=1e-6)


def _tail(law: Hazard, elapsed: float) -> float:
    """The ratio for an endless tau, and that of the very next moment."""
    far = EDGES[-1] + 1e3 / law.rate(EDGES[-1]) - elapsed
    return law.cdf(far, elapsed) / law.truncated_mean(far, elapsed)


def test_laws_of_known_shape_peak_where_theory_says() -> None:
    falling = Hazard([1.0 / (10.0 + middle(place)) for place in range(len(EDGES))])
    for elapsed in (0.0, 1.0, 30.0, 500.0):
        assert falling.peak(elapsed) == pytest.approx(falling.rate(elapsed))
    assert log(falling.peak(1e5)) < log(falling.peak(1.0))


def test_a_life_table_knows_sizes_that_repeat() -> None:
    seen = Exposure()
    for _ in range(200):
        seen.add(1.1, happened=True)
    law = life_table(seen, lambda place: 1.5 / (15.0 + middle(place)), 1.0)
    assert law.cdf(0.85) < 0.02
    assert law.cdf(1.2) > 0.98
    assert law.mean() == pytest.approx(1.1, rel=0.25)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), censored=st.floats(0.0, 0.7))
def test_a_life_table_finds_the_law_behind_what_was_lost_to_sight(seed: int, censored: float) -> None:
    rng = random.Random(seed)
    seen = Exposure()
    for _ in range(3000):
        lasts = rng.expovariate(0.1)
        if rng.random() < censored:
            seen.add(lasts * rng.random(), happened=False)
        else:
            seen.add(lasts, happened=True)
    law = life_table(seen, lambda place: 0.1, 1.0)
    rates = sum(seen.events) / sum(seen.seconds())
    for time in (1.0, 5.0, 15.0):
        assert law.cdf(time) == pytest.approx(1.0 - exp(-rates * time), abs=0.05)


@given(st.lists(st.tuples(st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.booleans()), min_size=1, max_size=30))
def test_exposure_counts_time_at_risk_and_who_entered(drawn: list[tuple[float, float, bool]]) -> None:
    seen = Exposure()
    spans = [(min(one, other), max(one, other), happened) for one, other, happened in drawn]
    for since, until, happened in spans:
        seen.add(until, happened=happened, since=since)
    seconds, entered = seen.seconds(), seen.entered()
    for place, edge in enumerate(EDGES):
        end = EDGES[place + 1] if place + 1 < len(EDGES) else inf
        at_risk = sum(max(0.0, min(until, end) - max(since, edge)) for since, until, _ in spans)
        assert seconds[place] == pytest.approx(at_risk, abs=1e-9)
        assert entered[place] == sum(since <= edge <= until and (since < edge or not edge) for since, until, _ in spans)
    assert sum(seen.events) == sum(happened for _, _, happened in spans)
