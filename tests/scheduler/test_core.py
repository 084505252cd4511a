"""Calls in, placements out: what the scheduler promises to gateways."""

import pytest

from services.common.errors import Reason
from services.common.urgency import LEVELS
from services.scheduler.events import GatewayLost, ProgramEnded, ProgramRestored, Restarted
from tests.scheduler.stage import Stage


def test_a_call_is_placed_on_a_worker_of_its_model() -> None:
    stage = Stage()
    stage.join("a", model="other")
    stage.join("b")
    stage.submit("c1", priority=3)
    (place,) = stage.placed
    assert (place.worker_id, place.worker_address, place.attempt, place.priority) == ("b", "host:b", 1, -3 * LEVELS)


def test_calls_wait_here_beyond_batch_and_lookahead() -> None:
    stage = Stage(lookahead_calls=2)
    stage.join(seqs=3)
    for i in range(9):
        stage.submit(f"c{i}")
    assert len(stage.placed) == 5
    stage.finish("c0")
    assert stage.order[5:] == ["c5"]


def test_an_engine_with_a_queue_of_its_own_gets_nothing() -> None:
    stage = Stage(lookahead_calls=1)
    stage.join(seqs=8)
    stage.load("w", waiting=2)
    stage.submit("c1")
    assert stage.placed == []
    stage.load("w", waiting=1)
    assert stage.order == ["c1"]


def test_calls_whose_kv_does_not_fit_wait() -> None:
    stage = Stage()
    stage.join(seqs=8, blocks=10)
    stage.submit("c1", prompt=80, output=16)
    stage.submit("c2", prompt=80, output=16)
    assert stage.order == ["c1"]
    stage.finish("c1")
    assert stage.order == ["c1", "c2"]


def test_an_oversized_call_gets_an_empty_worker() -> None:
    stage = Stage()
    stage.join(seqs=8, blocks=10)
    stage.submit("c1", prompt=16)
    stage.submit("c2", prompt=1000)
    assert stage.order == ["c1"]
    stage.finish("c1")
    assert stage.order == ["c1", "c2"]


def test_small_calls_do_not_pass_a_large_one_for_ever() -> None:
    stage = Stage(runs_seconds=1.0)
    stage.join(seqs=8, blocks=10)
    for i in range(4):
        stage.submit(f"s{i}", prompt=16, output=16)
    stage.submit("large", prompt=140, output=16)
    for i in range(4, 40):
        stage.submit(f"s{i}", prompt=16, output=16)
    stage.run(1.0)
    assert stage.order[4] == "large"


def test_higher_priority_goes_first() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    for call_id, priority in (("running", 0), ("low", -1), ("normal", 0), ("high", 5)):
        stage.submit(call_id, priority=priority)
    for call_id in ("running", "high", "normal"):
        stage.finish(call_id)
    assert stage.order == ["running", "high", "normal", "low"]


def test_a_lost_worker_gives_its_calls_back_ahead_of_their_rank() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join("a")
    stage.submit("c1")
    stage.submit("c2")
    stage.lose_worker("a")
    assert [action for action in stage.actions if isinstance(action, Restarted)] == [Restarted("p", "c1")]
    stage.join("b")
    place = stage.placed[-1]
    assert (place.call_id, place.worker_id, place.attempt) == ("c1", "b", 2)
    program = stage.core.programs.get("p")
    assert program is not None
    assert program.num_restarted == 1


def test_a_call_lost_at_the_gateway_is_placed_again_with_what_it_generated() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", prompt=100, output=50)
    stage.lose("c1", attempt=1, generated=20)
    assert [place.attempt for place in stage.placed] == [1, 2]
    assert stage.core.calls["p", "c1"].prompt_tokens == 120
    assert stage.core.calls["p", "c1"].expected_output == 30


def test_a_stale_or_repeated_loss_is_ignored() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1")
    stage.lose("c1", attempt=1)
    stage.lose("c1", attempt=1)
    stage.lose("c1", attempt=3)
    assert [place.attempt for place in stage.placed] == [1, 2]


def test_a_call_that_keeps_losing_workers_is_refused() -> None:
    stage = Stage(max_attempts=3)
    stage.join()
    stage.submit("c1")
    for attempt in (1, 2, 3):
        stage.lose("c1", attempt=attempt)
    assert [reject.reason for reject in stage.rejected] == [Reason.ENGINE_DEAD]
    assert not stage.core.calls


def test_submitting_again_changes_nothing_and_repeats_the_placement() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    for _ in range(2):
        stage.submit("c1")
        stage.submit("c2")
    assert stage.order == ["c1", "c1"]
    assert {place.attempt for place in stage.placed} == {1}
    assert len(stage.core.queue) == 1


def test_finishing_again_or_unknown_changes_nothing() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1")
    for _ in range(2):
        stage.finish("c1", seconds=2.0)
    stage.finish("never")
    program = stage.core.programs.get("p")
    assert program is not None
    assert (program.num_finished, program.executed_seconds) == (1, 2.0)


def test_a_queued_call_can_be_given_up() -> None:
    stage = Stage()
    stage.submit("c1")
    stage.finish("c1", completed=False)
    stage.join()
    assert stage.placed == []


def test_a_lost_gateway_frees_slots_and_queue() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    stage.submit("c1", link=1)
    stage.submit("c2", link=1)
    stage.submit("c3", link=2)
    stage.feed(GatewayLost(1))
    assert stage.order == ["c1", "c3"]
    assert set(stage.core.calls) == {("p", "c3")}


def test_a_gateway_that_comes_back_restores_the_ledger() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    stage.submit("c1", attempt=2, worker_id="w")
    stage.submit("c2")
    assert stage.placed == []
    stage.finish("c1")
    assert stage.order == ["c2"]


def test_a_call_running_on_a_worker_not_seen_yet_counts_when_that_joins() -> None:
    stage = Stage(lookahead_calls=0)
    stage.submit("c1", attempt=1, worker_id="w")
    stage.submit("c2")
    stage.join("w")
    assert stage.placed == []
    stage.lose_worker("w")
    stage.join("x")
    assert [(place.call_id, place.attempt) for place in stage.placed] == [("c1", 2)]


def test_calls_follow_their_gateway_to_its_new_stream() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    stage.submit("c1", link=1)
    stage.submit("c2", link=1)
    stage.feed(GatewayLost(1))
    stage.submit("c1", link=2, attempt=1, worker_id="w")
    stage.submit("c2", link=2)
    stage.finish("c1")
    assert [(place.call_id, place.link) for place in stage.placed] == [("c1", 1), ("c2", 2)]


def test_a_draining_worker_gets_nothing_new() -> None:
    stage = Stage()
    stage.join("a")
    stage.load("a", draining=True)
    stage.submit("c1")
    assert stage.placed == []
    stage.join("b")
    assert [place.worker_id for place in stage.placed] == ["b"]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    stage = Stage(runs_seconds=1.0, max_queued_calls=20, lookahead_calls=0)
    stage.join()
    for i in range(22):
        stage.submit(f"c{i}")
    (reject,) = stage.rejected
    assert (reject.call_id, reject.reason) == ("c21", Reason.QUEUE_FULL)
    stage.run(10.0)
    for i in range(22, 40):
        stage.submit(f"c{i}")
    assert 1.0 <= stage.rejected[-1].retry_after_seconds <= 10.0


@pytest.mark.parametrize("bound", ["max_queued_per_program", "max_queued_per_tenant"])
def test_one_program_or_tenant_cannot_take_the_whole_queue(bound: str) -> None:
    stage = Stage(**{bound: 2})
    for i in range(3):
        stage.submit(f"c{i}", "greedy", tenant="t")
    stage.submit("c", "modest", tenant="u")
    assert [(reject.program_id, reject.reason) for reject in stage.rejected] == [("greedy", Reason.QUEUE_FULL)]


def test_a_call_that_waits_too_long_is_refused() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    stage.submit("c1", timeout=5.0)
    stage.submit("c2", timeout=5.0)
    stage.run(10.0)
    assert [(reject.call_id, reject.reason) for reject in stage.rejected] == [("c2", Reason.QUEUE_TIMEOUT)]


def test_an_unknown_model_is_refused_at_once() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", model="nope")
    assert [reject.reason for reject in stage.rejected] == [Reason.MODEL_NOT_FOUND]


def test_a_model_without_workers_is_waited_for_before_it_is_refused() -> None:
    stage = Stage(no_worker_grace_seconds=10.0)
    stage.join()
    stage.lose_worker("w")
    stage.submit("c1")
    stage.run(9.0)
    assert stage.rejected == []
    stage.run(1.0)
    (reject,) = stage.rejected
    assert reject.reason is Reason.NO_WORKER
    assert reject.retry_after_seconds > 0
    stage.submit("c2")
    stage.join("x")
    stage.run(20.0)
    assert stage.order == ["c2"]


def test_a_prompt_longer_than_any_worker_takes_is_refused() -> None:
    stage = Stage()
    stage.join()
    stage.submit("c1", prompt=100_000)
    assert [reject.reason for reject in stage.rejected] == [Reason.CONTEXT_LENGTH_EXCEEDED]


def test_the_first_token_clears_the_prefill_backlog() -> None:
    stage = Stage()
    stage.join(seqs=2)
    stage.submit("c1", prompt=500)
    worker = stage.core.fleet.get("w")
    assert worker is not None
    assert worker.uncached_tokens == 500
    stage.start("c1")
    assert worker.uncached_tokens == 0


def test_a_program_ends_with_its_last_call_and_only_some_are_kept() -> None:
    stage = Stage(kept_programs=2)
    stage.join()
    for name in ("p1", "p2", "p3"):
        stage.submit("c1", name)
        stage.feed(ProgramEnded(name))
        assert len(stage.core.programs) == 1
        stage.finish("c1", name)
    assert [program.program_id for program in stage.core.programs.ended()] == ["p3", "p2"]
    assert len(stage.core.programs) == 0


def test_idle_programs_expire_and_are_bounded() -> None:
    stage = Stage(program_idle_seconds=60.0, max_programs=3)
    stage.join(seqs=8)
    for i in range(5):
        stage.submit("c", f"p{i}")
        stage.finish("c", f"p{i}")
    assert [program.program_id for program in stage.core.programs.live()] == ["p4", "p3", "p2"]
    stage.run(61.0)
    assert len(stage.core.programs) == 0


def test_service_survives_the_scheduler() -> None:
    stage = Stage()
    stage.feed(ProgramRestored("p", "t", started=-100.0, num_finished=7, attained_seconds=42.0))
    stage.join()
    stage.submit("c1")
    assert stage.core.calls["p", "c1"].inherited_seconds == 42.0
    stage.finish("c1", seconds=8.0)
    program = stage.core.programs.get("p")
    assert program is not None
    assert (program.num_finished, program.attained_seconds) == (8, 50.0)
