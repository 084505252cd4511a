"""What is in force on the board, and what its watchers get."""

import pytest

from services.common import foretold
from services.common.forecast import Forecast
from services.common.foretold import Foretold
from services.common.laws import NEVER, Empirical, Exponential, Law, Point, Quantiles
from services.workflow.board import Board


class Clock:
    """Unix time, as a test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(clock)


def told(program: str, revision: int, *, call: str = "", returns: Law = NEVER, valid: float = 60.0) -> Foretold:
    return Foretold(program, "t", "a", call, Forecast(returns=returns), revision, valid)


def test_a_slow_watcher_gets_the_newest_of_each_thread_in_the_order_in_which_they_were_made(
    board: Board, clock: Clock
) -> None:
    with board.watching() as watcher:
        for program, revision in (("p", 1), ("q", 2), ("p", 3)):
            board.post(told(program, revision), clock.now)
        assert [message.revision for message in watcher.batch().forecasts] == [2, 3]
        assert not watcher.batch().forecasts


def test_who_comes_later_gets_what_is_in_force(board: Board, clock: Clock) -> None:
    board.post(told("p", 1), clock.now)
    board.post(told("q", 2, valid=5.0), clock.now)
    board.post(told("r", 3), clock.now)
    board.over("r")
    clock.now += 10.0
    with board.watching() as watcher:
        [message] = watcher.batch().forecasts
    assert (message.program_id, message.valid_seconds) == ("p", 50.0)
    assert [said.foretold.program_id for said in board.in_force()] == ["p"]


def test_each_call_of_a_thread_has_its_forecast_until_it_ends(board: Board, clock: Clock) -> None:
    with board.watching() as watcher:
        board.post(told("p", 1), clock.now)
        for revision, call in enumerate("abab", 2):
            board.post(told("p", revision, call=call), clock.now)
        board.ended("p", "a")
        board.post(told("p", 6, call="c"), clock.now)
        heard = [(message.call_id, message.revision) for message in watcher.batch().forecasts]
        assert heard == [("b", 5), ("c", 6)]
        board.ended("p", "b")
        board.ended("p", "c")
        board.post(told("p", 7), clock.now)
        assert [(message.call_id, message.revision) for message in watcher.batch().forecasts] == [("", 7)]
    assert [said.foretold.revision for said in board.in_force()] == [7]


def test_what_waits_for_a_program_that_is_over_is_not_sent(board: Board, clock: Clock) -> None:
    with board.watching() as watcher:
        board.post(told("p", 1), clock.now)
        board.over("p")
        assert not watcher.batch().forecasts


@pytest.mark.parametrize("call", ["", "c"])
def test_an_idle_threads_return_is_told_as_what_is_left_of_it(board: Board, clock: Clock, call: str) -> None:
    law = Quantiles([10.0, 20.0, 30.0, 40.0], 0.2)
    board.post(told("p", 1, call=call, returns=law), clock.now)
    clock.now += 15.0
    with board.watching() as watcher:
        [message] = watcher.batch().forecasts
    heard = foretold.read(message).forecast.returns
    assert heard is not None
    elapsed = 0.0 if call else 15.0
    for tau in (10.0, 20.0, 35.0):
        assert heard.cdf(tau) == pytest.approx(law.cdf(tau, elapsed), abs=0.05)


@pytest.mark.parametrize("law", [Exponential(0.1), Point(3.0), NEVER, Empirical([1.0, 2.0, float("inf")])])
def test_any_law_travels_as_points(law: Law) -> None:
    heard = foretold.read(foretold.write(told("p", 1, returns=law))).forecast.returns
    assert heard is not None
    for tau in (0.5, 1.5, 2.5, 5.0, 20.0):
        assert heard.cdf(tau) == pytest.approx(law.cdf(tau), abs=0.05)


def test_of_thousands_only_what_holds_is_said(board: Board, clock: Clock) -> None:
    for number in range(5_000):
        clock.now += 1.0
        board.post(told(f"p{number}", number), clock.now)
    assert len(board.in_force()) == 60
    with board.watching() as watcher:
        assert len(watcher.batch().forecasts) == 60
