"""Published orderings as special cases (algorithms.md 2.2): each against its own formula, on random inputs."""

import itertools
import random
from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.laws import Empirical, Hazard, Law, LogNormal, Lomax, Point, middle
from services.common.laws.hazard import EDGES
from services.scheduler import ordering
from services.scheduler.ordering import Ordering
from services.scheduler.records import Call
from services.scheduler.service_class import ServiceClass
from tests.scheduler.believed import call, expected
from tests.scheduler.stage import Stage

seconds = st.floats(0.1, 500.0)
several = st.lists(st.integers(1, 5000).map(lambda tenths: tenths / 10), min_size=2, max_size=10, unique=True)
FALLING = Hazard([1.5 / (15.0 + middle(place)) for place in range(len(EDGES))])


def order(policy: Ordering, calls: list[Call]) -> list[str]:
    """Names, first first."""
    return [waiting.key[1] for waiting in sorted(calls, key=policy.rank)]


def by(values: list[float]) -> list[str]:
    """Names "0", "1", ... in the order of the values."""
    return [str(place) for place in np.argsort(values, kind="stable")]


@given(several)
def test_ours_with_the_prior_is_plas(attained: list[float]) -> None:
    """Any falling hazard: least attained first, up to the stretches of the learned law."""
    calls = [call(expected(Lomax(1.5, 15.0), value), str(place)) for place, value in enumerate(attained)]
    assert order(ordering.load("gittins"), calls) == by(attained)
    learned = [call(expected(FALLING, value), str(place)) for place, value in enumerate(attained)]
    ranks = [ordering.load("gittins").rank(waiting) for waiting in learned]
    for one, other in itertools.pairwise(ranks):
        first, second = attained[ranks.index(one)], attained[ranks.index(other)]
        if first * 1.3 < second and first > 1.0:
            assert one < other


@given(several, st.integers(1, 8), st.floats(0.5, 5.0), st.floats(1.5, 3.0))
def test_plas_bins_are_first_come_first_served_inside(
    attained: list[float], queues: int, first: float, growth: float
) -> None:
    policy = ordering.load("plas", num_queues=queues, first_bound_seconds=first, growth=growth)
    arrivals = list(range(len(attained)))
    random.Random(len(attained)).shuffle(arrivals)
    calls = [
        call(expected(attained=value), str(place), arrived=arrivals[place]) for place, value in enumerate(attained)
    ]
    bins = [sum(value >= first * growth**level for level in range(queues - 1)) for value in attained]
    wanted = sorted(range(len(attained)), key=lambda place: (bins[place], arrivals[place]))
    assert order(policy, calls) == [str(place) for place in wanted]


@given(st.lists(st.floats(0.01, 60.0), min_size=2, max_size=10))
def test_mlfq_bins_calls_and_not_programs(prefills: list[float]) -> None:
    policy = ordering.load("mlfq", num_queues=6, first_bound_seconds=0.5, growth=2.0)
    calls = [
        call(expected(attained=100.0 - place, prefill_seconds=value), str(place), arrived=-place)
        for place, value in enumerate(prefills)
    ]
    bins = [sum(value >= 0.5 * 2.0**level for level in range(5)) for value in prefills]
    wanted = sorted(range(len(prefills)), key=lambda place: (bins[place], -place))
    assert order(policy, calls) == [str(place) for place in wanted]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.2, 20.0)), min_size=1, max_size=25))
def test_atlas_is_plas_on_chains(steps: list[tuple[int, float]]) -> None:
    stage = Stage(ordering="atlas", admission="open")
    stage.join(seqs=4)
    plas, atlas = ordering.load("plas"), ordering.load("atlas")
    for number, (chain, lasts) in enumerate(steps):
        stage.submit(f"c{number}", f"p{chain}")
        submitted = stage.core.calls.get((f"p{chain}", f"c{number}"))
        assert submitted is not None
        assert plas.rank(submitted) == atlas.rank(submitted)
        assert plas.promotes_at(submitted) == atlas.promotes_at(submitted)
        stage.finish(f"c{number}", f"p{chain}", lasts)


def test_atlas_counts_across_branches_as_published() -> None:
    """a(1) -> {b(100), c(1) -> e(1)}: the scalar says 102 at the end, the longest path is 101."""
    stage = Stage(ordering="atlas", admission="open")
    stage.join(seqs=4)
    stage.submit("a")
    stage.finish("a", seconds=1.0)
    stage.submit("b")
    stage.submit("c")
    stage.finish("b", seconds=100.0)
    stage.submit("e")  # as c has ended elsewhere; it inherits what b attained
    stage.finish("c", seconds=1.0)
    program = stage.core.programs.get("p")
    assert program is not None
    assert program.attained_seconds == 101.0
    stage.finish("e", seconds=1.0)
    assert program.attained_seconds == 102.0
    assert program.served_seconds == 103.0


@given(several, st.data())
def test_srpt_and_ours_are_true_remaining_with_an_oracle(sizes: list[float], data: st.DataObject) -> None:
    attained = [data.draw(st.floats(0.0, 0.9)) * size for size in sizes]
    left = [size - value for size, value in zip(sizes, attained, strict=True)]
    calls = [
        call(expected(Point(size), value, service=0.0), str(place))
        for place, (size, value) in enumerate(zip(sizes, attained, strict=True))
    ]
    for name in ("srpt", "gittins"):
        ranks = [ordering.load(name).rank(waiting)[-3 if name == "srpt" else 1] for waiting in calls]
        for one, mine in zip(ranks, left, strict=True):
            for other, theirs in zip(ranks, left, strict=True):
                assert (mine - theirs > 1e-9 * mine) <= (one > other)


@given(several)
def test_sjf_is_the_mean_of_the_call(services: list[float]) -> None:
    calls = [call(expected(Point(1000.0), service=value), str(place)) for place, value in enumerate(services)]
    assert order(ordering.load("sjf"), calls) == by(services)


def wasserstein(one: list[float], other: list[float]) -> float:
    """W1 of two laws of as many samples."""
    return float(np.abs(np.sort(one) - np.sort(other)).mean())


def embedded(samples: list[list[float]]) -> list[float]:
    """Distances from the ideal agent (nothing left) after classical scaling to one dimension (Kairos)."""
    all_of = [[0.0] * len(samples[0]), *samples]
    squared = np.array([[wasserstein(one, other) ** 2 for other in all_of] for one in all_of])
    centre = np.eye(len(all_of)) - 1.0 / len(all_of)
    values, vectors = np.linalg.eigh(-0.5 * centre @ squared @ centre)
    line = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    return [float(abs(place - line[0])) for place in line[1:]]


def kairos_order(samples: list[list[float]]) -> list[str]:
    """By what is learned of agents with these latencies."""
    calls = [call(expected(latency_seconds=float(np.mean(values))), str(place)) for place, values in enumerate(samples)]
    return order(ordering.load("kairos"), calls)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_kairos_order_is_that_of_means_where_laws_are_ordered(seed: int, agents: int) -> None:
    rng = random.Random(seed)
    shape = sorted(rng.lognormvariate(0.0, rng.uniform(0.2, 1.0)) for _ in range(60))
    shifts: list[float] = []
    total = 0.0
    for _ in range(agents):
        total += rng.uniform(0.2, 3.0)
        shifts.append(total)
    samples = [[value + shift for value in shape] for shift in shifts]
    rng.shuffle(samples)
    assert kairos_order(samples) == by(embedded(samples))


def test_kairos_order_is_nearly_that_of_means_where_laws_cross() -> None:
    same = 0
    for seed in range(100):
        rng = random.Random(seed)
        samples = [
            [rng.lognormvariate(mu, sigma) for _ in range(200)]
            for mu, sigma in ((rng.uniform(0.0, 3.0), rng.uniform(0.2, 1.2)) for _ in range(6))
        ]
        same += kairos_order(samples) == by(embedded(samples))
    assert 70 <= same <= 99, same


@given(st.lists(st.tuples(seconds, seconds, seconds), min_size=2, max_size=8))
def test_hexgen_is_urgency_at_any_moment(drawn: list[tuple[float, float, float]]) -> None:
    """(service, what follows, deadline after arrival): greatest U = t - (SLO_s - waited) first."""
    calls: list[Call] = []
    for place, (service, rest, slack) in enumerate(drawn):
        believed = expected(Point(service + rest), service=service)
        calls.append(call(believed, str(place), arrived=float(place), deadline=place + slack))
    for now in (float(len(drawn)), 1000.0):
        urgencies = [
            service - (slack * service / (service + rest) - (now - place))
            for place, (service, rest, slack) in enumerate(drawn)
        ]
        found = [int(name) for name in order(ordering.load("hexgen"), calls)]
        ordered = [urgencies[place] for place in found]
        assert all(one >= other - 1e-6 for one, other in itertools.pairwise(ordered))


@given(st.lists(st.one_of(seconds, st.just(inf)), min_size=2, max_size=10))
def test_edf_is_the_deadline_then_arrival(deadlines: list[float]) -> None:
    calls = [
        call(expected(), str(place), arrived=float(place), deadline=value) for place, value in enumerate(deadlines)
    ]
    assert order(ordering.load("edf"), calls) == by(deadlines)


@given(several, st.data())
def test_llmsched_at_its_ends(remaining: list[float], data: st.DataObject) -> None:
    information = [data.draw(st.floats(0.0, 3.0)) for _ in remaining]
    calls = [
        call(expected(Point(value), information=known), str(place), arrived=float(place))
        for place, (value, known) in enumerate(zip(remaining, information, strict=True))
    ]
    assert order(ordering.load("llmsched", explore=0.0), calls) == by(remaining)
    assert order(ordering.load("llmsched", explore=1.0), calls) == by([-known for known in information])


def test_llmsched_explores_as_often_as_it_is_told() -> None:
    for explore in (0.1, 0.5):
        policy = ordering.load("llmsched", explore=explore)
        explored = sum(policy.rank(call(expected(), f"c{number}"))[0] == 0.0 for number in range(4000))
        assert explored / 4000 == pytest.approx(explore, abs=0.03)


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 5.0)), min_size=2, max_size=10))
def test_continuum_is_its_tuple(drawn: list[tuple[float, float]]) -> None:
    """(away, program arrival) under a TTL of 2 s, that of the public fork."""
    calls = [
        call(expected(away_seconds=away), str(place), arrived=10.0 + place, started=started)
        for place, (away, started) in enumerate(drawn)
    ]
    wanted = sorted(range(len(drawn)), key=lambda place: (drawn[place][0] > 2.0, drawn[place][1], place))
    assert order(ordering.load("continuum", ttl_seconds=2.0), calls) == [str(place) for place in wanted]


@settings(max_examples=40)
@given(st.lists(st.floats(0.05, 20.0), min_size=1, max_size=20), st.floats(0.0, 25.0), st.floats(0.0, 8.0))
def test_continuum_pins_for_the_optimal_time(gaps: list[float], away: float, reload_seconds: float) -> None:
    gain = 1.0 + reload_seconds
    law = Empirical(gaps)
    optimum = max((0.0, *gaps), key=lambda tau: (law.cdf(tau) * gain - tau if tau else 0.0, -tau))
    waiting = call(expected(away_seconds=away, returns=law, prefill_seconds=reload_seconds))
    pinned = ordering.load("continuum", delay_seconds=1.0).rank(waiting)[0] == 0.0
    assert pinned == (away <= optimum)


@given(st.lists(st.integers(1, 100_000), min_size=2, max_size=10))
def test_thunderagent_restores_the_shortest_context_first(tokens: list[int]) -> None:
    calls = [call(expected(), str(place), arrived=float(place), prompt=value) for place, value in enumerate(tokens)]
    scores = [-(1.0 / value + 1.0) for value in tokens]
    wanted = sorted(range(len(tokens)), key=lambda place: (tokens[place], place))
    assert order(ordering.load("thunderagent"), calls) == [str(place) for place in wanted]
    ordered = [scores[place] for place in wanted]
    assert ordered == sorted(ordered)


@given(several)
def test_ps_tcs_is_the_most_uncertain_kind_first(entropies: list[float]) -> None:
    calls = [call(expected(uncertainty=value), str(place)) for place, value in enumerate(entropies)]
    assert order(ordering.load("ps_tcs"), calls) == by([-value for value in entropies])


@given(st.lists(st.tuples(st.floats(1.0, 50.0), st.floats(1.0, 50.0)), min_size=2, max_size=8))
def test_tempo_prefers_goodput_per_second_among_what_can_be_in_time(drawn: list[tuple[float, float]]) -> None:
    """(remaining, deadline): with equal tokens per second, what has least left first, and the late ones last."""
    calls = [call(expected(Point(left)), str(place), deadline=deadline) for place, (left, deadline) in enumerate(drawn)]
    found = [drawn[int(name)] for name in order(ordering.load("tempo"), calls)]
    keys = [(left > deadline, left) for left, deadline in found]
    assert keys == sorted(keys)


LAWS: list[Law] = [Lomax(1.5, 15.0), LogNormal(2.0, 1.2), FALLING, Point(40.0)]


@settings(max_examples=80)
@given(
    st.sampled_from(LAWS),
    st.floats(0.0, 30.0),
    st.sampled_from(LAWS),
    st.floats(0.0, 30.0),
    st.floats(0.0, 2000.0),
    st.sampled_from(list(ServiceClass)),
)
def test_nobody_is_overtaken_for_long(
    law: Law, attained: float, other_law: Law, other_attained: float, later: float, other_class: ServiceClass
) -> None:
    """A call is overtaken only by calls that come within patience * ln(ratio of the other factors) typical waits."""
    policy = ordering.load("gittins", patience=10.0)
    waits = call(expected(law, attained), arrived=0.0)
    at_once = call(expected(other_law, other_attained), arrived=0.0, service_class=other_class)
    comes = call(expected(other_law, other_attained), arrived=later, service_class=other_class)
    ratio = policy.rank(waits)[1] - policy.rank(at_once)[1]  # a logarithm
    assert (policy.rank(comes) < policy.rank(waits)) == (later < 100.0 * ratio)


def test_classes_and_weights_multiply() -> None:
    policy = ordering.load("gittins", interactive=4.0, batch=0.25)
    law = Point(10.0)
    keys = {
        one: policy.rank(call(expected(law), service_class=one))[1]
        for one in (ServiceClass.INTERACTIVE, ServiceClass.DEFAULT, ServiceClass.BATCH)
    }
    assert keys[ServiceClass.BATCH] - keys[ServiceClass.DEFAULT] == pytest.approx(log(4.0))
    assert keys[ServiceClass.DEFAULT] - keys[ServiceClass.INTERACTIVE] == pytest.approx(log(4.0))
    heavy = policy.rank(call(expected(law), weight=2.0))[1]
    assert keys[ServiceClass.DEFAULT] - heavy == pytest.approx(log(2.0))


@given(st.floats(0.1, 1000.0), st.integers(1, 100_000), st.floats(1.0, 5000.0), st.floats(0.0, 2.0))
def test_what_a_call_holds_counts_as_seconds_do(remaining: float, prompt: int, output: float, weight: float) -> None:
    """Ours orders by seconds * tokens ** bytes; without `bytes` by seconds alone, however long the prompt."""
    held = call(expected(Point(remaining)), prompt=prompt, output=output)
    alone = ordering.load("gittins", bytes=0.0).rank(held)[1]
    assert alone == pytest.approx(log(remaining))
    beside = ordering.load("gittins", bytes=weight).rank(held)[1]
    assert beside - alone == pytest.approx(weight * log(prompt + output), abs=1e-9)
    short, long = (call(expected(Point(remaining)), prompt=tokens) for tokens in (prompt, 4 * prompt + 1000))
    assert ordering.load("gittins").rank(short) < ordering.load("gittins").rank(long)


def test_a_near_deadline_goes_first_and_a_far_one_is_not_put_off_for_ever() -> None:
    policy = ordering.load("gittins", patience=10.0)
    free = policy.rank(call(expected(Point(10.0)), arrived=50.0))
    near = policy.rank(call(expected(Point(10.0), service=5.0), arrived=50.0, deadline=55.0))
    far = policy.rank(call(expected(Point(10.0), service=5.0), arrived=50.0, deadline=1e9))
    assert near < free < far
    assert far[1] <= free[1] + 1.0 + 1e-9
