"""Prefill on one worker, decode on another: which calls are shared, and what becomes of them."""

import pytest

from services.scheduler.events import PoolAway, ProgramEnded, Role
from services.scheduler.pool_events import Handle, Replica
from tests.scheduler.stage import NAMESPACE, Stage

PREFIX = list(range(1000, 1200))
"""3,200 tokens: 3.2 s to compute."""


def stage_of(*workers: str, pools: tuple[str, ...] = ("h1", "h2"), **settings: float) -> Stage:
    """Prefill workers p1.. beside pool h1, decode workers d1.. and whole ones b1.. beside h2; block: 16 ms."""
    stage = Stage(None, **settings)
    roles = {"p": Role.PREFILL, "d": Role.DECODE, "b": Role.BOTH}
    for pool_id in dict.fromkeys(pools):
        stage.pool(pool_id)
    for name in workers:
        pool_id = pools[0] if name[0] == "p" else pools[-1]
        stage.join(name, seqs=8, blocks=10_000, role=roles[name[0]], pool=pool_id, prefill=1000.0, step=0.01)
    return stage


def busy(stage: Stage, worker_id: str, num_calls: int = 3) -> None:
    """So many calls decode there."""
    for i in range(num_calls):
        stage.submit(f"busy-{worker_id}-{i}", "busy", prompt=16, output=2000, attempt=1, worker_id=worker_id)
        stage.start(f"busy-{worker_id}-{i}", "busy")


def shared(stage: Stage, call_id: str = "c1") -> None:
    """A call is being prefilled on p1 while d1 is busy."""
    busy(stage, "d1")
    stage.submit(call_id, blocks=PREFIX, output=100)
    place = stage.placed[-1]
    assert (place.worker_id, place.kv.hand_off, place.attempt) == ("p1", True, 1)


def test_a_call_is_prefilled_here_and_decoded_there() -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.run(2.0)
    stage.start("c1", attempt=1)
    stage.hand_off("c1", attempt=1)
    place = stage.placed[-1]
    assert (place.worker_id, place.attempt, place.kv.hand_off, place.kv.arriving) == ("d1", 2, False, True)
    assert place.kv.handle == Handle(NAMESPACE, PREFIX[-1], 200)
    assert place.kv.replica == Replica("h1", "data:h1", 200, on_ssd=False)
    assert stage.prefetches == []
    program = stage.core.programs.get("p")
    assert program is not None
    assert (program.executed_seconds, program.num_finished) == (2.0, 0)
    worker = stage.core.fleet.get("p1")
    assert worker is not None
    assert not worker.placed
    stage.finish("c1", seconds=5.0, attempt=2)  # the gateway tells the whole call's
    assert (program.executed_seconds, program.attained_seconds, program.num_finished) == (5.0, 5.0, 1)


def test_beside_the_same_pool_there_is_no_replica() -> None:
    stage = stage_of("p1", "d1", pools=("h1",))
    shared(stage)
    stage.hand_off("c1", attempt=1)
    assert stage.placed[-1].kv.arriving
    assert stage.placed[-1].kv.replica is None


def test_the_prefilled_call_goes_on_before_those_that_came_after_it() -> None:
    stage = stage_of("p1", "d1", lookahead_calls=0)
    busy(stage, "d1", 8)
    stage.submit("c1", blocks=PREFIX, output=100)
    assert stage.placed[-1].kv.hand_off
    for i in range(3):
        stage.submit(f"short{i}", prompt=16)
    stage.hand_off("c1", attempt=1)
    assert stage.order == ["c1"]
    stage.finish("busy-d1-0", "busy")
    assert stage.order == ["c1", "c1"]


def test_a_call_that_is_not_shared_waits_for_those_alone_that_came_before_it() -> None:
    """However fast prefill workers are: there would always be one more that is prefilled."""
    stage = stage_of("p1", "d1", lookahead_calls=0)
    busy(stage, "d1", 8)
    for i in range(4):
        if i == 2:
            stage.submit("newcomer", "new", prompt=8)
        stage.submit(f"c{i}", blocks=range(1000 * i, 1000 * i + 200), output=100)
        stage.hand_off(f"c{i}", attempt=1)
    assert stage.order == ["c0", "c1", "c2", "c3"]
    for i in range(5):
        stage.finish(f"busy-d1-{i}", "busy")
    assert stage.order[4:] == ["c0", "c1", "newcomer", "c2", "c3"]


@pytest.mark.parametrize("attempt", [1, 7])
def test_a_hand_off_counts_once_and_for_its_attempt_alone(attempt: int) -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.hand_off("c1", attempt=1)
    stage.hand_off("c1", attempt)
    assert [place.attempt for place in stage.placed] == [1, 2]


def test_a_call_is_never_shared_twice() -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.hand_off("c1", attempt=1)
    for attempt in (2, 3):
        stage.hand_off("c1", attempt)
        stage.lose("c1", attempt + 1)
    assert not any(place.kv.hand_off for place in stage.placed[1:])


def test_another_gateway_cannot_hand_off_a_call() -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.hand_off("c1", attempt=1, link=2)
    assert len(stage.placed) == 1


def test_losing_the_prefill_worker_restarts_the_call() -> None:
    stage = stage_of("p1", "p2", "d1")
    busy(stage, "d1")
    stage.submit("c1", blocks=PREFIX, output=100)
    assert stage.placed[-1].worker_id == "p1"
    stage.lose_worker("p1")
    assert (stage.placed[-1].worker_id, stage.placed[-1].attempt) == ("p2", 2)
    assert stage.placed[-1].kv.hand_off
    stage.lose_worker("p2")
    assert (stage.placed[-1].worker_id, stage.placed[-1].attempt) == ("d1", 3)
    assert not stage.placed[-1].kv.hand_off


def test_losing_the_decode_worker_restarts_the_call_whole() -> None:
    stage = stage_of("p1", "d1", "b1")
    busy(stage, "b1")
    shared(stage)
    stage.hand_off("c1", attempt=1)
    first = stage.placed[-1].worker_id
    stage.pool("h1", dram=PREFIX)
    stage.lose_worker(first)
    place = [place for place in stage.placed if place.call_id == "c1"][-1]
    assert place.worker_id in {"d1", "b1"} - {first}
    assert (place.attempt, place.kv.hand_off, place.kv.arriving) == (3, False, False)
    assert place.kv.handle == Handle(NAMESPACE, PREFIX[-1], 200), "the pool still has it"


def test_an_idle_prefill_worker_whose_kv_no_decoder_can_use_takes_no_prefill() -> None:
    stage = stage_of("p1", "d1", lookahead_calls=0)
    stage.join("odd", seqs=8, blocks=10_000, role=Role.PREFILL, pool="h1", namespace="odd", prefill=1000.0, step=0.01)
    busy(stage, "d1")
    for i in range(40):
        stage.submit(f"c{i}", blocks=range(2000 * i, 2000 * i + 200), output=100)
    assert len(stage.core.queue) > 0
    assert {place.worker_id for place in stage.placed} <= {"p1", "d1"}


def test_a_call_of_one_token_is_not_shared() -> None:
    stage = stage_of("p1", "d1")
    busy(stage, "d1")
    stage.submit("c1", blocks=PREFIX, output=1)
    assert (stage.placed[-1].worker_id, stage.placed[-1].kv.hand_off) == ("d1", False)


def test_an_idle_decode_worker_takes_calls_whole() -> None:
    stage = stage_of("p1", "d1")
    stage.submit("c1", blocks=PREFIX, output=100)
    assert (stage.placed[-1].worker_id, stage.placed[-1].kv.hand_off) == ("d1", False)


def test_without_a_pool_nothing_is_shared() -> None:
    stage = stage_of("p1", "d1")
    stage.feed(PoolAway("h1"))
    busy(stage, "d1")
    stage.submit("c1", blocks=PREFIX, output=100)
    assert stage.placed[-1].worker_id == "d1"


def test_prefill_workers_take_whole_calls_when_there_is_nobody_else() -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.lose_worker("d1")
    stage.hand_off("c1", attempt=1)
    place = stage.placed[-1]
    assert (place.call_id, place.worker_id, place.kv.hand_off) == ("c1", "p1", False)


def num_shared(new_blocks: int, history_blocks: int, num_busy: int) -> int:
    """Of 10 calls whose history only the decode worker's engine has, those that are shared."""
    count = 0
    for _ in range(10):
        stage = stage_of("p1", "d1")
        busy(stage, "d1", num_busy)
        history = list(range(5000, 5000 + history_blocks))
        stage.cache("d1", history)
        stage.submit("c1", blocks=[*history, *range(9000, 9000 + new_blocks)], output=100)
        count += stage.placed[-1].kv.hand_off
    return count


def test_the_local_share_rises_with_history_over_new_text() -> None:
    histories = [0, 50, 200, 800]
    counts = [sum(num_shared(new, history, num_busy=3) for new in (5, 20, 80, 200)) for history in histories]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_the_shared_share_rises_with_the_load_of_decoders() -> None:
    counts = [sum(num_shared(new, 20, num_busy) for new in (5, 20, 80, 200)) for num_busy in (0, 1, 3, 6)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_running_decodes_are_not_spared_at_weight_0() -> None:
    stage = stage_of("p1", "d1", decode_delay_weight=0.0)
    busy(stage, "d1")
    stage.submit("c1", blocks=PREFIX, output=100)
    assert stage.placed[-1].worker_id == "d1"


def test_a_role_that_changes_moves_new_calls_and_keeps_running_ones() -> None:
    stage = stage_of("b1", "b2", "b3")
    stage.submit("c1", blocks=PREFIX, output=100)
    assert stage.placed[-1].worker_id == "b1"
    stage.role("b1", Role.PREFILL)
    assert ("p", "c1") in stage.core.calls
    busy(stage, "b2")
    busy(stage, "b3")
    stage.submit("c2", blocks=[*PREFIX, 1], output=100)
    assert stage.order == ["c1", "c2"]
    stage.finish("c1")
    stage.submit("c3", blocks=range(7000, 7100), output=100)
    assert (stage.placed[-1].worker_id, stage.placed[-1].kv.hand_off) == ("b1", True)
    stage.role("b1", Role.BOTH)
    stage.finish("c2")
    stage.cache("b1", range(7000, 7100))
    stage.hand_off("c3", attempt=1)
    assert stage.placed[-1].worker_id == "b1", "it is idle now, and its engine has the blocks"


def test_a_running_prefill_that_a_gateway_announces_can_be_handed_off() -> None:
    stage = stage_of("p1", "d1")
    stage.submit("c1", blocks=PREFIX, output=100, attempt=1, worker_id="p1")
    stage.hand_off("c1", attempt=1)
    place = stage.placed[-1]
    assert (place.worker_id, place.attempt, place.kv.arriving) == ("d1", 2, True)


def test_a_shared_call_of_a_program_that_ends_is_decoded_and_given_up_everywhere() -> None:
    stage = stage_of("p1", "d1")
    shared(stage)
    stage.feed(ProgramEnded("p"))
    stage.hand_off("c1", attempt=1)
    stage.finish("c1", attempt=2)
    assert stage.released == [("p", ["h1", "h2"])]
