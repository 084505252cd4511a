"""Retention policies: what holds for each of them, and how the default ranks."""

from math import inf, isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.laws import Exponential, Law, Lomax, Point
from services.kvpool import retention
from services.kvpool.segment import Pressure, Program, Segment, Thread

LAWS: list[Law | None] = [None, Point(3.0), Point(inf), Exponential(0.2), Lomax(1.0, 10.0)]
PRESSURE = Pressure(0.9, 1e-9, 100.0, 10_000_000)


@st.composite
def segments(draw: st.DrawFn, *, now: float = 1000.0) -> Segment:
    """Any segment, as of `now`."""
    num_blocks = draw(st.integers(1, 500))
    segment = Segment(
        first_block=draw(st.integers(0, 5000)),
        num_blocks=num_blocks,
        num_bytes=num_blocks * 2_000_000,
        num_tokens=num_blocks * 16,
        created=draw(st.floats(0.0, now)),
        last_used=draw(st.floats(0.0, now)),
        num_uses=draw(st.integers(1, 1000)),
        recompute_seconds=draw(st.floats(0.0, 60.0)),
        reload_seconds=draw(st.sampled_from([inf, 0.0, 0.3])),
        floor=draw(st.floats(0.0, 1.0)),
        num_newcomers=draw(st.integers(0, 50)),
    )
    for number in range(draw(st.integers(0, 3))):
        program = Program(f"p{number}", arrived=draw(st.floats(0.0, now)), idle_since=draw(st.floats(0.0, now)))
        program.num_running = draw(st.integers(0, 1))
        program.returns = draw(st.sampled_from(LAWS))
        program.steps_to_execution = draw(st.sampled_from([0.0, 2.0, 9.0, inf]))
        program.next_use = draw(st.sampled_from([now, now + 5.0, inf]))
        program.context_blocks = 600
        segment.programs[program.program_id] = program
        if draw(st.booleans()):
            thread = Thread(f"p{number}/0", program, began=program.idle_since, idle_since=program.idle_since)
            thread.num_running, thread.returns, thread.turns = program.num_running, program.returns, program.returns
            thread.next_use = program.next_use
            segment.threads[thread.thread_id] = thread
    return segment


@given(name=st.sampled_from(retention.names()), segment=segments())
@settings(max_examples=300)
def test_every_policy_ranks_every_segment(name: str, segment: Segment) -> None:
    policy, again = retention.load(name), retention.load(name)
    rank = policy.rank(segment, 1000.0, PRESSURE)
    assert not isnan(rank)
    assert rank >= 0.0
    assert rank == policy.rank(segment, 1000.0, PRESSURE) == again.rank(segment, 1000.0, PRESSURE)


def test_the_policies_that_were_promised_are_there() -> None:
    promised = "belady continuum density gdsf infercept kvflow lfu lru scalesim tokencake wa_lru"
    assert retention.names() == promised.split()


def test_a_wrong_name_or_parameter_is_told() -> None:
    with pytest.raises(ValueError, match="known: belady"):
        retention.load("none")
    with pytest.raises(ValueError, match="retention lru"):
        retention.load("lru", newcomers=1.0)
    with pytest.raises(ValueError, match="newcomer_seconds"):
        retention.load("density", newcomer_seconds=0.0)


def _rank(*threads: Thread, **changed: float) -> float:
    segment = Segment(0, 10, 1000, 160, created=0.0, last_used=90.0, recompute_seconds=1.0)
    for name, value in changed.items():
        setattr(segment, name, value)
    segment.threads = {thread.thread_id: thread for thread in threads}
    return retention.load("density").rank(segment, 100.0, PRESSURE)


def _thread(law: Law, *, running: bool = False, name: str = "t") -> Thread:
    program = Program(name)
    return Thread(name, program, num_running=int(running), began=95.0, idle_since=90.0, returns=law, turns=law)


def test_density_prefers_what_returns_soon_what_is_dear_and_what_is_small() -> None:
    soon, late = _thread(Exponential(1.0)), _thread(Exponential(0.01))
    assert _rank(soon) > _rank(late) > _rank()
    assert _rank(soon, recompute_seconds=2.0) > _rank(soon)
    assert _rank(soon, num_bytes=2000) < _rank(soon)
    assert _rank(soon, reload_seconds=0.1) < _rank(soon)


def test_density_counts_users_and_newcomers() -> None:
    one, two = _thread(Exponential(0.5), name="a"), _thread(Exponential(0.5), name="b")
    nothing = _rank()
    assert _rank(one, two) - nothing == pytest.approx(2 * (_rank(one) - nothing), rel=1e-2)
    assert _rank(num_newcomers=10) > 10 * nothing


def test_density_of_a_heavy_tail_falls_with_time_and_of_a_known_time_rises() -> None:
    def at(law: Law, elapsed: float) -> float:
        thread = _thread(law)
        thread.idle_since = 100.0 - elapsed
        return _rank(thread)

    assert at(Lomax(1.0, 1.0), 1.0) > at(Lomax(1.0, 1.0), 30.0)
    assert at(Point(40.0), 39.0) > at(Point(40.0), 1.0)


def test_a_long_call_may_yield_to_a_tool_that_returns_soon() -> None:
    running, idle = _thread(Exponential(0.01), running=True), _thread(Exponential(1.0))
    assert _rank(running) < _rank(idle)
    program = Program("p", num_running=1)
    segment = Segment(0, 10, 1000, 160, created=0.0, last_used=90.0, recompute_seconds=1.0, programs={"p": program})
    assert retention.load("density").rank(segment, 100.0, PRESSURE) == inf  # where no threads are told apart
