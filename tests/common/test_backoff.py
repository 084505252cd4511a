"""Pauses that double."""

from services.common.backoff import Backoff


def test_each_pause_is_twice_the_one_before_up_to_the_longest_until_an_attempt_was_worth_it() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert [backoff.next_seconds() for _ in range(2)] == [0.5, 1.0]
