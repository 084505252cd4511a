"""A law of equally likely values: beside the law of the same samples, and against its own definition."""

from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.laws import Empirical, Lomax, Quantiles

points = st.lists(st.floats(0.0, 1e4), min_size=1, max_size=60)
times = st.floats(1e-3, 2e4)
nevers = st.sampled_from((0.0, 0.3))


@given(values=st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=60), tau=st.floats(1e-3, 3e4))
def test_it_is_the_law_of_its_points_within_a_point(values: list[float], tau: float) -> None:
    assert abs(Quantiles(values).cdf(tau) - Empirical(values).cdf(tau)) <= 1.0 / len(values) + 1e-9


@given(values=points, chance=st.floats(0.0, 0.99), elapsed=st.floats(0.0, 2e4), never=nevers)
def test_a_quantile_is_where_the_cdf_gets_there(
    values: list[float], chance: float, elapsed: float, never: float
) -> None:
    law = Quantiles(values, never)
    tau = law.quantile(chance, elapsed)
    if tau == inf:
        assert law.cdf(1e15, elapsed) <= chance + 1e-6
    else:
        assert law.cdf(tau * (1 + 1e-9) + 1e-9 * elapsed + 1e-9, elapsed) >= chance - 1e-6


@given(values=points, tau=times, elapsed=st.floats(0.0, 2e4), never=nevers)
def test_the_truncated_mean_is_the_integral_of_the_survival(
    values: list[float], tau: float, elapsed: float, never: float
) -> None:
    law = Quantiles(values, never)
    steps = 2000
    survival = sum(1.0 - law.cdf(tau * (step + 0.5) / steps, elapsed) for step in range(steps))
    assert law.truncated_mean(tau, elapsed) == pytest.approx(survival * tau / steps, rel=5e-3, abs=tau / steps)


@given(values=points, elapsed=st.floats(0.0, 2e4), least=st.floats(0.0, 1e4), never=nevers)
def test_the_peak_is_reached_and_never_passed(values: list[float], elapsed: float, least: float, never: float) -> None:
    law = Quantiles(values, never)
    peak = law.peak(elapsed, least)
    # Rises behind the last point are looked for at a few places only: the slack.
    for step in range(1, 200):
        tau = max(least, 1e-3) * 1.1**step
        assert law.cdf(tau, elapsed) <= peak * law.truncated_mean(tau, elapsed) * 1.05 + 1e-9


@given(values=points, elapsed=st.floats(0.0, 1e9), tau=st.floats(0.0, 1e5), more=st.floats(0.0, 1e5))
def test_the_cdf_grows_and_the_law_never_ends_abruptly(
    values: list[float], elapsed: float, tau: float, more: float
) -> None:
    law = Quantiles(values)
    assert 0.0 <= law.cdf(tau, elapsed) <= law.cdf(tau + more, elapsed) + 1e-9 <= 1.0 + 2e-9
    assert law.truncated_mean(tau + 1.0, elapsed) > 0.0
    assert law.mean(elapsed) > 0.0


def test_what_may_never_happen_has_no_mean_and_a_last_quantile() -> None:
    law = Quantiles([1.0, 2.0, 3.0, 4.0], never=0.5)
    assert law.mean() == inf
    assert law.quantile(0.6) == inf
    assert law.quantile(0.25) == pytest.approx(2.5)
    assert law.cdf(1e9) == pytest.approx(0.5)
    assert law.cdf(1e9, 4.0) < 0.05  # who did not come by then hardly ever comes


def test_one_point_is_a_known_time() -> None:
    law = Quantiles([3.0])
    assert law.cdf(2.9) == 0.0
    assert law.cdf(3.0) == pytest.approx(0.98)
    assert law.quantile(0.5) == 3.0
    assert isclose(law.mean(1.0), 2.0, rel_tol=0.05)


def test_points_of_a_heavy_tail_keep_its_mean_residual_growing() -> None:
    true = Lomax(2.0, 10.0)
    law = Quantiles([10.0 * ((1.0 - (place + 0.5) / 40) ** -0.5 - 1.0) for place in range(40)])
    assert law.mean() == pytest.approx(true.truncated_mean(1e12), rel=0.1)
    assert law.mean(100.0) > law.mean(30.0) > law.mean()
    with pytest.raises(ValueError, match="needs finite points"):
        Quantiles([])
