"""What runs on a worker that this scheduler did not place there, as after a restart of the scheduler."""

from tests.scheduler.stage import Stage


def busy(running: int = 2) -> Stage:
    """Two seats, and so many calls that nobody has announced."""
    stage = Stage(lookahead_calls=0)
    stage.join(seqs=2, running=running)
    return stage


def test_a_worker_that_joins_busy_is_not_empty() -> None:
    stage = busy()
    stage.submit("c1")
    assert stage.placed == []


def test_announced_calls_are_not_counted_twice() -> None:
    stage = busy()
    stage.submit("old", attempt=1, worker_id="w")
    stage.submit("c1")
    assert stage.placed == []
    stage.finish("old")
    assert stage.order == ["c1"]


def test_calls_announced_before_the_worker_joined_are_not_counted_twice() -> None:
    stage = Stage(lookahead_calls=0)
    for call_id in ("old1", "old2"):
        stage.submit(call_id, attempt=1, worker_id="w")
    stage.join(seqs=2, running=2)
    stage.submit("c1")
    stage.finish("old1")
    assert stage.order == ["c1"]


def test_calls_that_nobody_announces_count_until_the_engine_has_them_no_more() -> None:
    stage = busy()
    stage.submit("c1")
    stage.submit("c2")
    stage.load("w", running=1)
    assert stage.order == ["c1"]
    stage.load("w", running=2)
    assert stage.order == ["c1"]
    stage.load("w", running=1)
    assert stage.order == ["c1", "c2"]


def test_reports_that_lag_behind_a_finish_do_not_block_its_seat() -> None:
    stage = busy(running=0)
    for call_id in ("c1", "c2", "c3"):
        stage.submit(call_id)
    stage.load("w", running=2)
    stage.finish("c1")
    assert stage.order == ["c1", "c2", "c3"]
    stage.finish("c2")
    stage.load("w", running=2)
    stage.submit("c4")
    assert stage.order[3:] == ["c4"]
