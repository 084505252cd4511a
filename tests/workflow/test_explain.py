"""Where programs' time went."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.cache_note import CacheNote
from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver, ToolRan
from services.workflow.explain import Detail, ExplainedCall, Explainer, Explanation
from services.workflow.structure import Structure

P = "p"


def explainer(**limits: int) -> Explainer:
    return Explainer(Structure(), **limits)


def run(
    on: Explainer, call_id: str, began: float, ended: float, parents: Sequence[str] = (), *, program: str = P
) -> None:
    """A call from its begin to its end."""
    begin(on, call_id, began, parents, program=program)
    end(on, call_id, ended, program=program)


def begin(on: Explainer, call_id: str, at: float, parents: Sequence[str] = (), *, program: str = P) -> None:
    on.handle(
        CallBegan(
            program, call_id, 100, thread=call_id, parents=tuple(parents), messages=(int.from_bytes(call_id.encode()),)
        ),
        at,
    )
    on.check()


def end(on: Explainer, call_id: str, at: float, *, program: str = P, detail: Detail | None = None) -> None:
    on.handle(CallEnded(program, call_id, True, 100, 0, 10), at, detail or Detail())
    on.check()


def explained(on: Explainer, program: str = P) -> Explanation:
    explanation = on.explain(program)
    assert explanation is not None
    return explanation


def critical(on: Explainer) -> list[str]:
    return [call.began.call_id for call in explained(on).calls if call.critical]


def call(on: Explainer, call_id: str) -> ExplainedCall:
    (found,) = [each for each in explained(on).calls if each.began.call_id == call_id]
    return found


def test_nothing_is_known_of_a_program_that_made_no_call() -> None:
    on = explainer()
    on.handle(ToolRan(P, "grep", 1.0), 1.0)
    on.handle(ProgramOver(P), 2.0)
    assert on.explain(P) is None


def test_a_waterfall_counts_from_the_first_call() -> None:
    on = explainer()
    detail = Detail(reason=1, queue_seconds=0.5, prefill_seconds=1.0, decode_seconds=2.5, worker_id="w")
    begin(on, "a", 1000.0)
    end(on, "a", 1004.0, detail=detail)
    run(on, "b", 1007.0, 1009.0, ["a"])
    on.handle(ProgramOver(P), 1010.0)
    explanation = explained(on)
    assert (explanation.started, explanation.ended, explanation.num_forgotten) == (1000.0, 1010.0, 0)
    first, second = explanation.calls
    assert (first.at, first.seconds, first.gap_seconds, first.detail) == (0.0, 4.0, 0.0, detail)
    assert (second.at, second.seconds, second.gap_seconds, second.parents) == (7.0, 2.0, 3.0, ("a",))


def test_a_call_that_runs_has_no_end() -> None:
    on = explainer()
    run(on, "a", 0.0, 1.0)
    begin(on, "b", 2.0, ["a"])
    running = call(on, "b")
    assert (running.ended, running.seconds, running.critical) == (None, 0.0, True)
    assert explained(on).ended == 0.0


def test_the_slower_branch_of_a_join_is_critical() -> None:
    on = explainer()
    run(on, "plan", 0.0, 1.0)
    begin(on, "fast", 1.0, ["plan"])
    begin(on, "slow", 1.5, ["plan"])
    end(on, "fast", 3.0)
    end(on, "slow", 9.0)
    run(on, "join", 10.0, 11.0, ["fast", "slow"])
    begin(on, "aside", 1.0, ["plan"])
    end(on, "aside", 10.5)
    assert critical(on) == ["plan", "slow", "join"]
    assert call(on, "join").gap_seconds == 1.0


def test_clocks_that_differ_break_nothing() -> None:
    on = explainer()
    run(on, "a", 10.0, 9.0)
    run(on, "b", 8.0, 8.5, ["a"])
    assert (call(on, "a").seconds, call(on, "b").at, call(on, "b").gap_seconds) == (0.0, 0.0, 0.0)


def test_tools_stand_where_they_ran() -> None:
    on = explainer()
    run(on, "a", 100.0, 101.0)
    on.handle(ToolRan(P, "pytest", 4.0, "coder", failed=True, call_id="a"), 105.5)
    (tool,) = explained(on).tools
    assert (tool.tool, tool.agent, tool.at, tool.seconds, tool.failed, tool.call_id) == (
        *("pytest", "coder", 1.5, 4.0, True, "a"),
    )


def test_what_the_scheduler_knew_of_a_calls_kv_is_told() -> None:
    on = explainer()
    note = CacheNote(10, 90, "evicted", "w", "q", 2.0)
    begin(on, "a", 0.0)
    end(on, "a", 1.0, detail=Detail(cache=note))
    assert call(on, "a").detail.cache == note


def test_what_is_told_twice_counts_once() -> None:
    told: list[tuple[Event, float]] = [
        (CallBegan(P, "a", 100), 0.0),
        (CallEnded(P, "a", True), 1.0),
        (ToolRan(P, "grep", 0.5, call_id="a"), 1.6),
    ]
    once, twice = explainer(), explainer()
    for event, at in told:
        once.handle(event, at)
    for event, at in [*told, *told]:
        twice.handle(event, at)
    assert explained(once) == explained(twice)


def test_a_call_that_was_refused_may_come_again() -> None:
    on = explainer()
    begin(on, "a", 0.0)
    on.handle(CallEnded(P, "a", False), 0.1, Detail(error="QUEUE_FULL"))
    run(on, "a", 2.0, 3.0)
    again = call(on, "a")
    assert (again.at, again.seconds, again.detail.error) == (2.0, 1.0, "")


def test_a_program_that_goes_on_after_its_end_lives() -> None:
    on = explainer()
    run(on, "a", 0.0, 1.0)
    on.handle(ProgramOver(P), 2.0)
    begin(on, "b", 3.0)
    assert explained(on).ended == 0.0


def test_programs_that_were_not_active_longest_are_forgotten_first() -> None:
    on = explainer(max_programs=2)
    run(on, "a", 0.0, 1.0, program="old")
    run(on, "a", 0.0, 1.0, program="older")
    run(on, "b", 2.0, 3.0, program="old")
    run(on, "a", 4.0, 5.0, program="new")
    assert on.explain("older") is None
    assert len(explained(on, "old").calls) == 2


def test_of_a_long_program_the_newest_calls_are_kept_and_the_others_counted() -> None:
    on = explainer(max_calls=3)
    for i in range(5):
        run(on, f"c{i}", i, i + 0.5, [f"c{i - 1}"] if i else [])
    explanation = explained(on)
    assert [each.began.call_id for each in explanation.calls] == ["c2", "c3", "c4"]
    assert (explanation.num_forgotten, explanation.started) == (2, 0.0)
    assert critical(on) == ["c2", "c3", "c4"]


def test_engine_seconds_of_a_drift_are_told_apart_from_those_of_outputs() -> None:
    on = explainer()
    for i, (uncached, output) in enumerate([(1000, 10), (200, 400), (50, 90)]):
        began = CallBegan("other", f"c{i}", uncached, model="m")
        on.handle(began, i)
        seconds = uncached * 0.001 + output * 0.02
        on.handle(CallEnded("other", f"c{i}", True, uncached, 0, output, seconds), i + 0.5)
    for call_id, system in (("a", 7), ("b", 9)):
        prompt = {"messages": (system, 8), "message_tokens": (500, 40), "roles": "su"}
        on.handle(CallBegan(P, call_id, 540, agent="x", model="m", **prompt), 5)  # pyright: ignore[reportArgumentType]
        on.handle(CallEnded(P, call_id, True, 540, 0, 10, 0.74), 6)
    drift = call(on, "b").drift
    assert drift is not None
    assert (drift.lost_tokens, drift.lost_seconds) == (540, pytest.approx(0.54, rel=1e-3))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "tool", "over"]),
        st.sampled_from(["p", "q", "r"]),
        st.integers(0, 9),
        st.lists(st.integers(0, 9), max_size=2),
        st.lists(st.integers(1, 5), max_size=6),
        st.floats(-1, 1),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_the_log_says_its_bounds_hold_and_paths_are_chains(
    events: list[tuple[str, str, int, list[int], list[int], float]],
) -> None:
    on, now = explainer(max_programs=2, max_calls=4), 0.0
    for kind, program, number, parents, messages, step in events:
        now += step
        call_id = f"c{number}"
        named = tuple(f"c{parent}" for parent in parents)
        roles = "suatso"[: len(messages)]
        event: Event
        match kind:
            case "begin":
                prompt = {"messages": messages, "message_tokens": [20] * len(messages), "roles": roles}
                event = CallBegan(program, call_id, 9, parents=named, **prompt)  # pyright: ignore[reportArgumentType]
            case "end":
                event = CallEnded(program, call_id, number % 3 > 0, 9, 1, 5, 0.1, number)
            case "tool":
                event = ToolRan(program, "grep", abs(step), call_id=call_id)
            case _:
                event = ProgramOver(program)
        on.handle(event, now)
        on.check()
    for program in ("p", "q", "r"):
        explanation = on.explain(program)
        if explanation is None:
            continue
        path = [each for each in explanation.calls if each.critical]
        assert path
        for each in explanation.calls:
            assert min(each.at, each.seconds, each.gap_seconds) >= 0
        awaited = {parent for each in path for parent in each.parents}
        assert len([each for each in path if each.began.call_id not in awaited]) <= 1
