"""Calls that lose their workers: where they go next, and what still counts of the attempt before."""

from services.common.errors import Reason
from tests.scheduler.stage import Stage

PREFIX = list(range(1000, 1020))


def two_workers(**settings: int) -> Stage:
    """w1 is the better place for `PREFIX`."""
    stage = Stage(None, lookahead_calls=0, **settings)
    stage.join("w1")
    stage.join("w2")
    stage.cache("w1", PREFIX)
    return stage


def test_a_call_does_not_go_back_at_once_to_the_worker_that_lost_it() -> None:
    stage = two_workers()
    stage.submit("c1", blocks=PREFIX)
    stage.lose("c1", attempt=1)
    assert [place.worker_id for place in stage.placed] == ["w1", "w2"]


def test_a_call_waits_for_a_busy_worker_rather_than_burn_its_attempts() -> None:
    stage = two_workers(max_attempts=3)
    stage.submit("c1", blocks=PREFIX)
    stage.submit("other", prompt=16)
    stage.lose("c1", attempt=1)
    assert [place.worker_id for place in stage.placed] == ["w1", "w2"]
    stage.finish("other")
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("c1", "w2")


def test_a_worker_that_reports_again_gets_the_call_that_it_lost() -> None:
    stage = two_workers()
    stage.submit("c1", blocks=PREFIX)
    stage.submit("other", prompt=16)
    stage.lose("c1", attempt=1)
    stage.load("w1")
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("c1", "w1")


def test_a_worker_that_reports_that_it_drains_does_not() -> None:
    stage = two_workers()
    stage.submit("c1", blocks=PREFIX)
    stage.submit("other", prompt=16)
    stage.lose("c1", attempt=1)
    stage.load("w1", draining=True)
    stage.run(10.0)
    assert len(stage.placed) == 2
    stage.finish("other")
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("c1", "w2")


def test_a_call_that_every_worker_lost_goes_where_it_can() -> None:
    stage = two_workers()
    stage.submit("c1", blocks=PREFIX)
    for attempt in (1, 2):
        stage.lose("c1", attempt=attempt)
    assert [place.worker_id for place in stage.placed] == ["w1", "w2", "w1"]


def test_a_first_token_of_an_attempt_before_does_not_clear_the_prefill() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", prompt=500)
    stage.start("c1", attempt=1)
    stage.lose("c1", attempt=1)
    worker = stage.core.fleet.get("w")
    assert worker is not None
    assert worker.uncached_tokens == 500
    stage.start("c1", attempt=1)
    assert worker.uncached_tokens == 500
    stage.start("c1", attempt=2)
    assert worker.uncached_tokens == 0


def test_the_end_of_an_attempt_before_ends_the_call_without_charging_for_the_new_one() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join("w1")
    stage.submit("c1")
    stage.lose_worker("w1")
    stage.join("w2")
    stage.submit("next")
    stage.run(100.0)
    stage.finish("c1", seconds=0.0, attempt=1)
    assert stage.order == ["c1", "c1", "next"]
    program = stage.core.programs.get("p")
    assert program is not None
    assert program.executed_seconds == 0.0


def test_a_restarted_call_has_no_queue_timeout() -> None:
    stage = Stage(no_worker_grace_seconds=60.0)
    stage.join("w1")
    stage.submit("c1", timeout=5.0)
    stage.lose_worker("w1")
    stage.run(30.0)
    assert stage.rejected == []
    stage.run(60.0)
    assert [reject.reason for reject in stage.rejected] == [Reason.NO_WORKER]
