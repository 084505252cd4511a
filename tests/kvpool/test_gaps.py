"""What a pool brings back from disk before its thread returns."""

import pytest

from services.common.laws import NEVER, Law, Point, Quantiles
from services.kvpool.actions import AnswerDemote
from services.kvpool.events import Demote, ReleaseProgram, ThreadForeseen
from services.kvpool.gaps import due_in
from tests.kvpool.stage import Stage

SOON = Quantiles([8.0, 10.0, 12.0])


def away(*, chance: float = 0.1, returns: Law = SOON, valid: float = 60.0) -> Stage:
    """A thread that is foretold to come back, its blocks on disk alone."""
    stage = Stage(8, 8, prefetch_chance=chance)
    stage.call("abc", thread="t")
    stage.ask(Demote(stage.request(), "p"), AnswerDemote)
    assert stage.held("abc") == (3, 0)
    stage.feed(ThreadForeseen("p", "t", returns, valid, running=False))
    return stage


def test_blocks_come_back_shortly_before_their_thread() -> None:
    stage = away()
    stage.wait(5.0)
    assert stage.held("abc") == (3, 0)
    stage.wait(4.0)
    assert stage.held("abc") == (3, 3)


def test_they_stay_until_the_call_has_them() -> None:
    stage = away()
    stage.wait(8.0)
    assert len(stage.core.leases.held) == 1
    assert stage.call("abc", thread="t") == 3
    assert not stage.core.leases.held


def test_nothing_comes_where_it_is_off_or_nobody_returns() -> None:
    for stage in (away(chance=0.0), away(returns=NEVER), away(valid=1.0)):
        stage.wait(30.0)
        assert stage.held("abc") == (3, 0)


def test_a_program_that_ended_gets_nothing_back() -> None:
    stage = away()
    stage.feed(ReleaseProgram("p"))
    stage.wait(30.0)
    assert stage.held("abc")[1] == 0


@pytest.mark.parametrize("elapsed", [0.0, 3.0])
def test_the_first_moment_at_which_the_chance_is_reached(elapsed: float) -> None:
    assert due_in(Point(10.0), elapsed, 2.0, 0.1) == pytest.approx(8.0 - elapsed)
    assert due_in(NEVER, elapsed, 2.0, 0.1) is None
    assert due_in(SOON, elapsed, 2.0, 0.1) == pytest.approx(6.0 - elapsed)
    assert due_in(SOON, 11.0, 2.0, 0.1) == 0.0
