"""Prompts that no worker takes that is there: refused only when none ever will."""

from services.common.errors import Reason
from services.scheduler.events import FleetKnown
from tests.scheduler.stage import Stage

LONG = 2000


def without_the_long_one() -> Stage:
    """A worker that took long prompts was lost; one that does not is there."""
    stage = Stage(lookahead_calls=0, scan_limit=4, no_worker_grace_seconds=10.0)
    stage.join("long", context=100_000)
    stage.join("short", context=1000, seqs=8)
    stage.lose_worker("long")
    return stage


def test_nothing_is_too_long_before_the_fleet_is_known() -> None:
    stage = Stage()
    stage.join("short", context=1000, known=False)
    stage.submit("c1", prompt=LONG)
    stage.submit("c2", prompt=LONG)
    assert stage.rejected == []
    stage.join("long", context=3000, known=False)
    assert stage.order == ["c1", "c2"]


def test_what_waited_is_too_long_once_the_fleet_is_known() -> None:
    stage = Stage()
    stage.join("short", context=1000, known=False)
    stage.submit("c1", prompt=LONG)
    stage.feed(FleetKnown())
    assert [reject.reason for reject in stage.rejected] == [Reason.CONTEXT_LENGTH_EXCEEDED]


def test_a_prompt_that_a_lost_worker_took_waits_for_another() -> None:
    stage = without_the_long_one()
    stage.submit("c1", prompt=LONG)
    stage.run(9.0)
    assert stage.rejected == []
    stage.join("long")
    assert stage.order == ["c1"]
    stage.run(60.0)
    assert stage.rejected == []


def test_it_waits_no_longer_than_for_any_worker() -> None:
    stage = without_the_long_one()
    stage.submit("c1", prompt=LONG)
    stage.run(10.0)
    assert [(reject.call_id, reject.reason) for reject in stage.rejected] == [("c1", Reason.NO_WORKER)]
    stage.submit("c2", prompt=100_000)
    assert stage.rejected[-1].reason is Reason.CONTEXT_LENGTH_EXCEEDED


def test_long_prompts_that_wait_hold_up_nobody() -> None:
    stage = without_the_long_one()
    for i in range(6):
        stage.submit(f"long{i}", prompt=LONG)
    stage.submit("short")
    assert stage.order == ["short"]
    stage.finish("long0", completed=False)
    stage.lose_worker("short")
    stage.run(30.0)
    assert {reject.reason for reject in stage.rejected} == {Reason.NO_WORKER}
    assert not stage.core.calls
