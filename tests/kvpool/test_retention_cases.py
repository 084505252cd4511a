"""What other systems do as cases of the density: the table of algorithms.md 2.4, on random inputs. Each right side is
the paper's own rule, written out; none runs the authors' code."""

import random
from collections.abc import Callable, Sequence
from math import inf, log
from typing import TypeVar

import pytest

from services.common.laws import Empirical, Exponential, Law, LogNormal, Lomax, Point
from services.kvpool.retention import continuum, infercept, load, tokencake
from services.kvpool.segment import Pressure, Program, Segment
from services.kvpool.worth import density, keep_for

CASES = range(50)
T = TypeVar("T")


def rho(law: Law, elapsed: float = 0.0, gain: float = 1.0, num_bytes: float = 1.0) -> float:
    return density(law, elapsed, gain, num_bytes)[0]


def order(items: Sequence[T], key: Callable[[T], float]) -> list[int]:
    return sorted(range(len(items)), key=lambda number: key(items[number]))


def segment(**fields: float) -> Segment:
    made = Segment(0, 10, 1000, 160, created=0.0, last_used=0.0)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("case", CASES)
def test_lru_is_any_falling_hazard(case: int) -> None:
    rng = random.Random(case)
    idle = [rng.uniform(0.0, 500.0) for _ in range(20)]
    law = Lomax(rng.uniform(0.3, 3.0), rng.uniform(1.0, 50.0))
    assert order(idle, lambda elapsed: rho(law, elapsed)) == order(idle, lambda elapsed: -elapsed)
    ranked = order(idle, lambda elapsed: load("lru").rank(segment(last_used=1000.0 - elapsed), 1000.0, PRESSURE))
    assert ranked == order(idle, lambda elapsed: -elapsed)


@pytest.mark.parametrize("case", CASES)
def test_lfu_and_gdsf_without_clock_are_exponential(case: int) -> None:
    rng = random.Random(case)
    rate, cost, size = rng.uniform(0.01, 5.0), rng.uniform(0.01, 9.0), rng.uniform(1.0, 1e6)
    assert rho(Exponential(rate), rng.uniform(0.0, 99.0), cost, size) == pytest.approx(rate * cost / size, rel=1e-9)
    uses, size = rng.randrange(1, 50), rng.randrange(1, 10_000)
    made = segment(num_uses=uses, num_bytes=size, recompute_seconds=cost)
    assert load("gdsf").rank(made, 0.0, PRESSURE) == pytest.approx(rho(Exponential(uses), 0.0, cost, size))
    assert load("lfu").rank(made, 0.0, PRESSURE) == pytest.approx(rho(Exponential(uses)))


@pytest.mark.parametrize("case", CASES)
def test_belady_kvflow_and_scalesim_are_points(case: int) -> None:
    rng = random.Random(case)
    users = [[rng.choice([1.0, 2.0, 3.0, 4.0, 17.0, inf]) for _ in range(rng.randrange(0, 4))] for _ in range(12)]

    def worth(distances: list[float]) -> float:
        return max((rho(Point(distance)) for distance in distances), default=0.0)  # shared: the least; suffix: 0

    def made(name: str, field: str, clip: float) -> Callable[[list[float]], float]:
        def rank(distances: list[float]) -> float:
            one = segment()
            for number, distance in enumerate(distances):
                one.programs[str(number)] = Program(str(number))
                setattr(one.programs[str(number)], field, min(distance, clip))
            return load(name).rank(one, 0.0, PRESSURE)

        return rank

    assert order(users, made("belady", "next_use", inf)) == order(users, worth)
    assert order(users, made("scalesim", "steps_to_execution", inf)) == order(users, worth)
    steps = [[min(distance, 4.0) for distance in distances] for distances in users]
    assert order(steps, made("kvflow", "steps_to_execution", inf)) == order(steps, worth)


def test_kvflow_drops_a_varying_suffix_before_an_unknown_agent() -> None:
    unknown, far = segment(), segment()
    unknown.programs["p"] = Program("p")
    far.programs["p"] = Program("p", steps_to_execution=100.0)
    ranks = [load("kvflow").rank(one, 0.0, PRESSURE) for one in (segment(), unknown, far)]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("case", CASES)
def test_infercept_keeps_when_the_density_is_above_one(case: int) -> None:
    rng = random.Random(case)
    tokens, elapsed = rng.randrange(16, 50_000), rng.uniform(0.1, 100.0)
    made = segment(num_tokens=tokens, recompute_seconds=rng.uniform(0.001, 20.0))
    made.programs["p"] = Program("p", idle_since=0.0)
    policy = infercept.Policy()
    discard, preserve = policy.discard_waste(made), policy.preserve_waste(made, elapsed)
    assert (rho(Point(elapsed), 0.0, discard, tokens) > 1.0) == (preserve < discard)
    assert policy.rank(made, elapsed, PRESSURE) == pytest.approx(rho(Point(elapsed), 0.0, discard, tokens))


@pytest.mark.parametrize("case", CASES)
def test_continuum_pins_for_the_same_time(case: int) -> None:
    rng = random.Random(case)
    durations = sorted({round(rng.lognormvariate(0.5, 1.2), 3) for _ in range(20)})
    delay, eta, prefill = rng.uniform(0.0, 20.0), rng.uniform(0.0, 1.0), rng.uniform(0.1, 20.0)
    memory, whole = rng.uniform(1.0, 1e9), 1e9

    def paper(tau: float) -> float:
        share = sum(duration <= tau for duration in durations) / len(durations)
        return share * (delay * eta + prefill) * memory / whole - tau * memory / whole

    expected = max([0.0, *durations], key=paper)
    gain = (delay * eta + prefill) * memory / whole
    got = keep_for(Empirical(durations), 0.0, gain, memory / whole, "horizon")[1]
    assert paper(got) == pytest.approx(paper(expected), abs=1e-12)
    assert got == pytest.approx(expected)
    assert continuum.Policy(eta=eta).ttl_seconds(Empirical(durations), prefill, delay) == pytest.approx(expected)


def test_continuum_evicts_unpinned_latest_arrivals_first() -> None:
    def rank(idle: float, arrived: float) -> float:
        made = segment(recompute_seconds=3.0, num_blocks=10)
        law = Empirical([2.0])
        made.programs["p"] = Program("p", arrived=arrived, idle_since=100.0 - idle, context_blocks=10, returns=law)
        return load("continuum").rank(made, 100.0, PRESSURE)

    assert rank(1.0, 50.0) > rank(5.0, 1.0) > rank(5.0, 50.0)
    assert rank(1.0, 1.0) > rank(1.0, 50.0)


@pytest.mark.parametrize("case", CASES)
def test_thunder_agent_restores_the_shortest_last(case: int) -> None:
    rng = random.Random(case)
    contexts = [rng.uniform(100.0, 90_000.0) for _ in range(15)]
    law = Exponential(0.2)
    # Recomputing costs c^2, keeping it c: the one to pause first is the one with the least c, as S_pause = 1/c says.
    assert order(contexts, lambda c: rho(law, 0.0, c * c, c)) == order(contexts, lambda c: -1.0 / c)


@pytest.mark.parametrize("case", CASES)
def test_tokencake_offloads_what_leaves_longer_than_it_moves(case: int) -> None:
    rng = random.Random(case)
    policy = tokencake.Policy()
    rest, size, price = rng.uniform(0.01, 5.0), rng.uniform(1e6, 3e10), 1e9
    transfer = policy.transfer_seconds(size)
    # Two tiers at a high price of room: away, room is freed for the rest of the tool less the moving.
    freed = keep_for(Point(rest), 0.0, price * rest, price)[0], price * (rest - transfer)
    assert policy.offload(rest, size) == (freed[1] > 0.0) == (rest > transfer)


def test_tokencake_keeps_what_would_not_be_away_long_enough() -> None:
    def rank(rest: float) -> float:
        made = segment(num_bytes=6_000_000_000)  # a second out and in
        made.programs["p"] = Program("p", returns=Point(rest))
        return load("tokencake").rank(made, 0.0, PRESSURE)

    assert rank(0.2) > rank(1.5) > rank(30.0)


@pytest.mark.parametrize("case", CASES)
def test_saga_ttl_is_a_quantile_and_the_density_knows_the_best_one(case: int) -> None:
    rng = random.Random(case)
    law, used = LogNormal(rng.uniform(-1.0, 2.0), rng.uniform(0.5, 1.5)), rng.uniform(0.6, 1.0)
    pressure = min(max((used - 0.7) / 0.2, 0.0), 1.0)
    ttl = min(_quantile(law, 0.95) * (1 - 0.5 * pressure), 300.0)
    assert law.cdf(ttl) <= 0.95 + 1e-6
    # The optimal rule: keep while the hazard is above price * bytes / gain; so no TTL does better than where it ends.
    gain, price = rng.uniform(0.5, 20.0), rng.uniform(0.05, 1.0)
    best = max(_profit(law, gain, price, step * 0.1) for step in range(1200))
    found, tau = keep_for(law, 0.0, gain, price)
    assert found <= best + 1e-3
    assert _profit(law, gain, price, ttl) <= best + 1e-2
    if 0.1 < tau < 100.0 and best > 0.05:
        assert found > 0.5 * best  # horizons are few: near the optimum, not at it


def _quantile(law: LogNormal, share: float) -> float:
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if law.cdf(middle) < share else (low, middle)
    return high


def _profit(law: Law, gain: float, price: float, tau: float) -> float:
    return law.cdf(tau) * gain - price * law.truncated_mean(tau)


def test_wa_lru_is_its_own_fixed_score() -> None:
    pressure = Pressure(0.9, 0.0, 200.0, 4000)
    idle = segment(last_used=100.0, num_bytes=1000)
    idle.programs["p"] = Program("p", idle_since=100.0, returns=Exponential(log(2) / 300.0))
    score = 0.3 * 100.0 / 200.0 + 0.5 * 0.5 + 0.2 * 1000 / 4000
    assert load("wa_lru").rank(idle, 200.0, pressure) == pytest.approx(1.0 - score)


PRESSURE = Pressure(0.9, 0.0, 100.0, 10_000)
