"""What a stream's times say of a fault."""

import pytest

from bench.failover.result import Finding, broken
from bench.failover.streams import Heard


def test_what_was_on_its_way_when_the_fault_came_is_not_what_the_stream_went_on_with() -> None:
    heard = Heard(times=[0.0, 0.1, 0.2, 0.31, 0.9, 1.0])
    assert heard.resumed_after(0.3) == pytest.approx(0.6)


def test_a_later_silence_that_is_longer_is_not_the_failover() -> None:
    heard = Heard(times=[0.0, 0.1, 0.2, 0.5, 0.6, 3.0])
    assert heard.resumed_after(0.2) == pytest.approx(0.3)
    assert heard.longest_after(0.2) == pytest.approx(2.4)


def test_where_no_silence_is_out_of_the_ordinary_the_wait_was_at_most_the_longest() -> None:
    heard = Heard(times=[0.0, 0.1, 0.2, 0.3, 0.4, 0.55])
    assert heard.resumed_after(0.2) == pytest.approx(0.15)


def test_a_stream_that_had_ended_waited_for_nothing() -> None:
    assert Heard(times=[0.0, 0.1]).resumed_after(0.5) is None


def test_a_wrong_stream_and_a_fault_that_hit_nobody_are_told() -> None:
    fine = Finding("gateway", "", rounds=1, seconds=[0.1])
    assert not broken([fine])
    assert broken([Finding("worker", "", rounds=1, seconds=[0.1], wrong=["a: 9 tokens instead of 10"])])
    assert broken([Finding("scheduler", "", rounds=1)])
