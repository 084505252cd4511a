"""The simulated engine's core tells the same whether it takes its steps one by one or many at once."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.preemption import Preemption
from services.worker.simulated.events import Shape
from tests.worker.simulated_bench import BLOCK, Bench, hashes

CALLS = st.fixed_dictionaries(
    {
        "prompt": st.integers(1, 200),
        "output": st.integers(1, 120),
        "name": st.integers(0, 3),
        "priority": st.integers(-1, 2),
        "interval": st.sampled_from([1, 3, 50, 1000]),
        "brought_tokens": st.integers(0, 15).map(lambda blocks: blocks * BLOCK),
    }
)
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), CALLS),
    st.tuples(st.just("submit"), CALLS),
    st.tuples(st.just("abort"), st.integers(0, 12)),
    st.tuples(st.just("prioritize"), st.tuples(st.integers(0, 12), st.integers(-1, 4))),
    st.tuples(st.just("wait"), st.floats(0, 60)),
)
SHAPES = st.builds(
    Shape,
    num_blocks=st.integers(80, 200),
    block_size=st.just(BLOCK),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(6, 60),
    speed=st.sampled_from([1.0, 2.5]),
    leap_seconds=st.sampled_from([2.2, 10.1, 1e9]),
    load_tokens_per_second=st.sampled_from([float("inf"), 1.37]),
    swap=st.booleans(),
    preemption=st.none()
    | st.builds(
        Preemption,
        margin=st.integers(1, 2),
        min_tokens=st.integers(1, 20),
        quanta=st.lists(st.integers(1, 20), max_size=3).map(tuple),
    ),
)


def cost(num_seqs: int, num_tokens: int, decode_context: int, prefill_pairs: float) -> float:
    """Affine with odd coefficients, so that no two things happen at the same instant by chance."""
    return 0.9173 + 0.0131 * num_seqs + 0.00171 * num_tokens + 0.000313 * decode_context + 1.37e-5 * prefill_pairs


def play(actions: list[tuple[str, Any]], shape: Shape) -> Bench:
    bench = Bench(shape, cost)
    keys = 0
    for what, argument in actions:
        if what == "submit":
            names = hashes(argument["name"], argument["prompt"] + argument["output"])
            more = {name: value for name, value in argument.items() if name != "name"}
            bench.submit(keys, hashes=names, **more)
            keys += 1
        elif what == "abort":
            bench.abort(argument)
        elif what == "prioritize":
            bench.prioritize(*argument)
        else:
            bench.run(bench.clock.now() + argument)
    bench.run()
    return bench


def as_told(bench: Bench) -> list[tuple[float, Any]]:
    return [(now, progress) for now, report in bench.reports for progress in report.progress]


def states(bench: Bench) -> list[tuple[float, dict[str, float], set[int]]]:
    """At each report: when, the counters, and what is cached."""
    cached: set[int] = set()
    result: list[tuple[float, dict[str, float], set[int]]] = []
    for now, report in bench.reports:
        cached = (cached | set(report.stored)) - set(report.removed)
        result.append((now, report.counters._asdict(), cached))
    return result


@settings(max_examples=400)
@given(st.lists(ACTIONS, max_size=30), SHAPES)
def test_leaps_change_nothing_that_is_told(actions: list[tuple[str, Any]], shape: Shape) -> None:
    leaping, stepping = play(actions, shape), play(actions, replace(shape, leap_seconds=0.0))
    for (when, progress), (due, expected) in zip(as_told(leaping), as_told(stepping), strict=True):
        assert when == pytest.approx(due, rel=1e-9)
        assert progress[:2] == expected[:2]
        assert (progress.receipt is None) == (expected.receipt is None)
        if progress.receipt is not None and expected.receipt is not None:
            assert tuple(progress.receipt)[1:] == pytest.approx(tuple(expected.receipt)[1:], rel=1e-9, abs=1e-7)
            assert progress.receipt.end is expected.receipt.end
    every_step = states(stepping)
    at = -1
    for now, counters, cached in states(leaping):
        at = next(index for index in range(at + 1, len(every_step)) if every_step[index][0] >= now - 1e-6)
        assert now == pytest.approx(every_step[at][0], abs=1e-6)
        assert counters == pytest.approx(every_step[at][1], rel=1e-9)
        assert cached == every_step[at][2]


def test_a_long_output_takes_few_leaps() -> None:
    bench = Bench(Shape(10_000, BLOCK, 8, 64, leap_seconds=1e9), cost)
    for key in range(4):
        bench.submit(key, prompt=1000, output=4000 + key, interval=10_000)
    bench.run()
    assert bench.tokens == {key: 4000 + key for key in range(4)}
    assert bench.reports[-1][1].counters.num_steps > 4000
    assert len(bench.reports) < 30


def test_a_leap_lasts_no_longer_than_it_may() -> None:
    bench = Bench(Shape(1000, BLOCK, 8, 64, leap_seconds=10.0), step_seconds=1.0)
    bench.submit(1, prompt=40, output=100, interval=1000)
    bench.run()
    times = [now for now, _ in bench.reports]
    assert max(after - before for before, after in pairwise(times)) == 10.0
    assert len(bench.reports) < 15


def test_what_comes_in_the_middle_of_a_leap_joins_after_the_step_that_runs() -> None:
    bench = Bench(Shape(1000, BLOCK, 8, 64, leap_seconds=1e9), step_seconds=1.0)
    bench.submit(1, prompt=4, output=100, interval=1000)
    bench.run(until=40.5)
    bench.submit(2, prompt=4, output=1)
    bench.run(until=50.5)
    bench.abort(1)
    assert bench.times(2) == [42.0]
    assert bench.times(1) == [1.0, 50.5]
    assert bench.tokens[1] == 50
    assert bench.reports[-1][1].counters.generated_tokens == 51
