"""Orderings, alone and through the core."""

import pytest

from services.scheduler import ordering
from services.scheduler.config import SchedulerSection
from tests.scheduler.stage import Stage


def serve(stage: Stage, program_id: str, seconds: float) -> None:
    """Let a program be served for so long."""
    stage.submit("before", program_id)
    stage.finish("before", program_id, seconds)


@pytest.mark.parametrize("name", ordering.names())
def test_every_call_is_placed_under_every_ordering(name: str) -> None:
    stage = Stage(runs_seconds=1.0, ordering=name, admission="open")
    stage.join(seqs=2)
    for i in range(60):
        stage.submit(f"c{i}", f"p{i % 7}")
    stage.run(100.0)
    assert sorted(stage.order) == sorted(f"c{i}" for i in range(60))


def test_fcfs_is_arrival_order() -> None:
    stage = Stage(runs_seconds=0.3)
    stage.join("a", seqs=2)
    stage.join("b", seqs=2)
    for i in range(50):
        stage.submit(f"c{i:02}", f"p{i % 5}")
        stage.run(0.01)
    stage.run(100.0)
    assert stage.order == sorted(stage.order)


def test_programs_that_got_less_go_first() -> None:
    stage = Stage(ordering="atlas", admission="open", lookahead_calls=0, ordering_params={"starvation_ratio": 0.0})
    stage.join()
    for name, seconds in (("heavy", 100.0), ("light", 3.0), ("new", 0.0)):
        if seconds:
            serve(stage, name, seconds)
    stage.submit("running", "other")
    for name in ("heavy", "light", "new"):
        stage.submit(name, name)
    stage.finish("running", "other")
    stage.finish("new", "new")
    stage.finish("light", "light")
    assert stage.order[-3:] == ["new", "light", "heavy"]


def test_programs_of_one_level_go_in_arrival_order() -> None:
    stage = Stage(ordering="atlas", admission="open", lookahead_calls=0)
    stage.join()
    serve(stage, "p1", 1.5)
    serve(stage, "p2", 0.1)
    stage.submit("running", "other")
    stage.submit("c1", "p1")
    stage.submit("c2", "p2")
    stage.finish("running", "other")
    assert stage.order[-1] == "c1"


def test_parallel_threads_attain_the_longest_of_them() -> None:
    stage = Stage(ordering="atlas", admission="open")
    stage.join(seqs=8)
    serve(stage, "p", 1.0)
    for call_id in ("left", "right"):
        stage.submit(call_id)
    stage.finish("left", seconds=100.0)
    stage.submit("joined")
    stage.finish("right", seconds=10.0)
    program = stage.core.programs.get("p")
    assert program is not None
    assert program.attained_seconds == 101.0
    assert program.executed_seconds == 111.0
    stage.finish("joined", seconds=1.0)
    assert program.attained_seconds == 102.0


def test_a_starved_call_moves_to_the_first_level() -> None:
    stage = Stage(1.0, ordering="atlas", admission="open", lookahead_calls=0, ordering_params={"starvation_ratio": 2.0})
    stage.join()
    serve(stage, "old", 10.0)
    stage.submit("first", "other")
    stage.submit("starving", "old")
    for i in range(60):
        stage.submit(f"new{i}", f"q{i}")
    stage.run(50.0)
    program = stage.core.programs.get("old")
    assert program is not None
    position = stage.order.index("starving")
    assert 19 <= position <= 62
    assert program.queue_seconds >= 20.0


def test_starvation_zeroes_the_calls_waiting_and_not_the_programs() -> None:
    stage = Stage(ordering="atlas", admission="open", lookahead_calls=0, ordering_params={"starvation_ratio": 2.0})
    stage.join()
    serve(stage, "old", 10.0)
    stage.submit("running", "other")
    stage.submit("c1", "old")
    stage.run(25.0)
    stage.finish("running", "other")
    program = stage.core.programs.get("old")
    assert program is not None
    assert program.queue_seconds == pytest.approx(25.0)  # pyright: ignore[reportUnknownMemberType] (pytest's stub)
    assert program.waited_seconds == pytest.approx(5.0)  # pyright: ignore[reportUnknownMemberType] (pytest's stub)


@pytest.mark.parametrize(
    ("name", "params"),
    [("nope", {}), ("fcfs", {"x": 1.0}), ("atlas", {"growth": 1.0}), ("atlas", {"num_queues": 0.0})],
)
def test_unknown_orderings_and_parameters_are_refused(name: str, params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=name):
        SchedulerSection(ordering=name, ordering_params=params)


def test_engines_are_told_the_level_after_the_priority() -> None:
    stage = Stage(ordering="plas", admission="open", lookahead_calls=8)
    stage.join()
    serve(stage, "heavy", 100.0)
    for name, priority in (("heavy", 0), ("new", 0), ("urgent", 1)):
        stage.submit(name, name, priority=priority)
    told = {place.call_id: place.priority for place in stage.placed}
    assert told["urgent"] < told["new"] < told["heavy"]


@pytest.mark.parametrize("name", ordering.names())
def test_levels_leave_priorities_alone(name: str) -> None:
    stage = Stage(ordering=name, admission="open", lookahead_calls=100)
    stage.join()
    for number in range(20):
        stage.submit("before", f"p{number}")
        stage.finish("before", f"p{number}", 3.0**number)
        stage.submit("low", f"p{number}", priority=-1)
        stage.submit("high", f"p{number}", priority=1)
    told = {(place.program_id, place.call_id): place.priority for place in stage.placed}
    highest = max(priority for (_, call_id), priority in told.items() if call_id == "high")
    assert all(priority > highest for (_, call_id), priority in told.items() if call_id == "low")
