"""What the scheduler does with what the workflow service says, and without it."""

from math import inf, isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.forecast import Forecast
from services.common.laws import NEVER, Law, Point, Quantiles
from services.scheduler.events import CallForeseen, ForecasterLost, Place, ProgramEnded
from services.scheduler.records import Call
from tests.scheduler.stage import Stage


def foresee(
    stage: Stage,
    program_id: str,
    call_id: str,
    remaining: float | None = None,
    *,
    revision: int = 1,
    valid: float = 100.0,
    thread: str = "",
    agent: str = "",
    forecast: Forecast | None = None,
) -> None:
    said = forecast or Forecast(remaining=None if remaining is None else Point(remaining))
    stage.feed(CallForeseen(program_id, thread, call_id, said, revision, valid, agent))
    stage.run()


def waiting(*names: str) -> Stage:
    """A stage on which these calls, each of a program of its name, wait for the one that runs."""
    stage = Stage(ordering="srpt", lookahead_calls=0)
    stage.join()
    stage.submit("running", "other")
    for name in names:
        stage.submit(name, name)
    return stage


def served(stage: Stage, *names: str) -> list[str]:
    """In which order they are placed when one after the other ends."""
    stage.finish("running", "other")
    for _ in names:
        stage.finish(stage.order[-1], stage.placed[-1].program_id)
    return stage.order[1:]


def live(stage: Stage, program_id: str, call_id: str) -> Call:
    call = stage.core.calls.get((program_id, call_id))
    assert call is not None
    return call


def test_a_forecast_reorders_calls_that_wait() -> None:
    stage = waiting("a", "b", "c")
    foresee(stage, "a", "a", 30.0)
    foresee(stage, "b", "b", 20.0)
    foresee(stage, "c", "c", 10.0)
    assert served(stage, "a", "b", "c") == ["c", "b", "a"]


def test_of_a_threads_forecasts_the_newest_counts() -> None:
    stage = waiting("a", "b")
    foresee(stage, "a", "a", 10.0, revision=5)
    foresee(stage, "a", "a", 99.0, revision=4)
    foresee(stage, "a", "a", 99.0, revision=5)
    foresee(stage, "b", "b", 20.0)
    assert served(stage, "a", "b") == ["a", "b"]


def test_the_next_call_of_a_thread_takes_what_was_said_of_it() -> None:
    stage = waiting()
    foresee(stage, "a", "", 30.0, thread="t")
    foresee(stage, "b", "", 10.0, agent="coder")
    foresee(stage, "c", "", 20.0)
    stage.submit("a", "a", thread="t", agent="whoever")
    stage.submit("b", "b", agent="coder")
    stage.submit("c", "c")
    assert served(stage, "a", "b", "c") == ["b", "c", "a"]


def test_the_return_that_is_awaited_is_not_the_one_after_it() -> None:
    stage = waiting()
    foresee(stage, "a", "", forecast=Forecast(remaining=Point(5.0), returns=Point(321.0)))
    foresee(stage, "b", "b", forecast=Forecast(remaining=Point(5.0), returns=Point(321.0)))
    stage.submit("a", "a")
    stage.submit("b", "b")
    assert live(stage, "a", "a").forecast == Forecast(remaining=Point(5.0))
    assert live(stage, "b", "b").expected.returns == Point(321.0)


def test_one_call_alone_takes_it() -> None:
    stage = waiting()
    foresee(stage, "a", "", 10.0)
    stage.submit("first", "a")
    stage.submit("second", "a")
    assert live(stage, "a", "first").forecast.remaining == Point(10.0)
    assert live(stage, "a", "second").forecast.remaining is None


def test_a_forecast_may_come_before_its_call_and_is_for_no_other() -> None:
    stage = waiting()
    foresee(stage, "a", "awaited", 10.0)
    foresee(stage, "b", "another", 10.0)
    stage.submit("awaited", "a")
    stage.submit("comes", "b")
    assert live(stage, "a", "awaited").forecast.remaining == Point(10.0)
    assert live(stage, "b", "comes").forecast.remaining is None


def test_another_call_of_the_thread_does_not_take_away_what_is_for_one() -> None:
    stage = waiting()
    foresee(stage, "a", "awaited", 10.0)
    stage.submit("another", "a")
    stage.submit("awaited", "a")
    assert live(stage, "a", "another").forecast.remaining is None
    assert live(stage, "a", "awaited").forecast.remaining == Point(10.0)


def test_no_more_output_is_expected_than_the_call_may_generate() -> None:
    stage = waiting()
    stage.submit("c", "a", output=40)
    foresee(stage, "a", "c", forecast=Forecast(output=Point(2000.0)))
    assert live(stage, "a", "c").expected_output == 40.0


@pytest.mark.parametrize("ordering", ["gittins", "srpt", "hexgen"])
@pytest.mark.parametrize("law", [NEVER, Quantiles([10.0], 0.5)])
def test_a_program_that_may_never_end_is_the_last_and_harms_nobody(ordering: str, law: Law) -> None:
    stage = Stage(ordering=ordering, lookahead_calls=0)
    stage.join()
    for name in ("running", "a", "b"):
        stage.submit(name, name)
    foresee(stage, "a", "a", forecast=Forecast(remaining=law))
    foresee(stage, "b", "b", 5.0)
    for name in ("running", "b", "a"):
        stage.finish(name, name)
    assert stage.order == ["running", "b", "a"]
    stage.submit("later")
    assert isfinite(live(stage, "p", "later").expected.urgency)


def test_a_call_that_becomes_urgent_by_what_is_said_is_promoted_and_one_that_is_no_more_is_not() -> None:
    stage = Stage(ordering="saga", lookahead_calls=0)
    stage.join()
    stage.submit("c", "early")
    stage.finish("c", "early")
    stage.feed(ProgramEnded("early"))  # such programs take a second
    for name in ("running", "a", "b", "c", "d"):
        stage.submit(name, name)
    foresee(stage, "c", "c", 1e4)
    foresee(stage, "d", "d", 1e6)
    foresee(stage, "d", "d", 1.0, revision=2)
    stage.run(1.0)
    assert [name for name in "abcd" if live(stage, name, name).promoted] == ["c"]
    assert stage.core.next_tick() != inf
    stage.finish("running", "running")
    assert stage.order[-1] == "c"


def test_what_the_caller_says_goes_first() -> None:
    stage = waiting()
    stage.submit("c", "a", forecast=Forecast(output=Point(7.0)))
    foresee(stage, "a", "c", forecast=Forecast(output=Point(900.0), remaining=Point(3.0)))
    call = live(stage, "a", "c")
    assert call.expected_output == 7.0
    assert call.forecast.remaining == Point(3.0)


def test_what_has_expired_is_as_if_it_had_not_been_said() -> None:
    stage = waiting("a", "b")
    before = live(stage, "a", "a").order
    foresee(stage, "a", "a", 1000.0, valid=5.0)
    foresee(stage, "b", "", 10.0, valid=5.0)
    assert live(stage, "a", "a").order > before
    stage.run(5.0)
    stage.submit("late", "b")
    assert live(stage, "a", "a").order == before
    assert live(stage, "b", "late").forecast.remaining is None
    assert len(stage.core.knowledge.forecasts) == 0


def test_without_its_service_nothing_that_it_said_holds() -> None:
    stage = waiting("a")
    foresee(stage, "a", "a", 1000.0, revision=7)
    foresee(stage, "b", "", 10.0, revision=7)
    stage.feed(ForecasterLost())
    stage.run()
    stage.submit("b", "b")
    for program_id in ("a", "b"):
        assert live(stage, program_id, program_id).forecast.remaining is None
    foresee(stage, "a", "a", 5.0, revision=1)
    assert live(stage, "a", "a").forecast.remaining == Point(5.0)


def test_it_also_goes_to_calls_that_run() -> None:
    stage = waiting()
    foresee(stage, "other", "running", forecast=Forecast(output=Point(9.0), returns=NEVER))
    call = live(stage, "other", "running")
    assert call.expected_output == 9.0
    assert call.expected.returns is NEVER


def test_a_thread_that_will_not_return_gives_up_its_room() -> None:
    stage = Stage(policy="legato", ordering="", assumed_prefill_tokens_per_second=100)
    stage.join(blocks=100, seqs=4)
    stage.submit("c", "a", prompt=1000, thread="t")
    stage.finish("c", "a", prompt=1000, tokens=100)
    assert stage.core.residents.admitted(live_program(stage, "a"), "m")
    foresee(stage, "a", "", thread="t", forecast=Forecast(returns=Point(1e6)))
    assert not stage.core.residents.admitted(live_program(stage, "a"), "m")


def test_its_room_is_at_once_another_programs() -> None:
    stage = Stage(policy="legato", ordering="", assumed_prefill_tokens_per_second=100)
    stage.join(blocks=100, seqs=4)
    stage.submit("c", "a", prompt=1000, thread="t")
    stage.submit("c", "other", prompt=200)
    stage.finish("c", "a", prompt=1000, tokens=100)
    stage.submit("c", "b", prompt=900)
    assert live_program(stage, "b").paused
    foresee(stage, "a", "", thread="t", forecast=Forecast(returns=Point(1e6)))
    assert [place.program_id for place in stage.placed] == ["a", "other", "b"]


def live_program(stage: Stage, program_id: str):
    program = stage.core.programs.get(program_id)
    assert program is not None
    return program


def test_an_eta_between_calls_is_by_what_is_said_of_the_next() -> None:
    stage = waiting()
    stage.submit("c", "a", prompt=16)
    program = live_program(stage, "a")
    stage.finish("c", "a")
    foresee(stage, "a", "", 321.0)
    assert stage.core.eta(program, stage.clock.now())[0] == pytest.approx(321.0, rel=0.01)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("valid", [5.0, 100.0])
def test_the_eta_of_a_program_is_by_its_newest_call(valid: float) -> None:
    stage = Stage()
    stage.join(seqs=2)
    stage.submit("older", "a", thread="t")
    stage.submit("newer", "a", thread="u")
    foresee(stage, "a", "older", 50.0, thread="t", valid=valid)
    foresee(stage, "a", "newer", 321.0, thread="u")
    foresee(stage, "a", "older", 50.0, thread="t", revision=2, valid=valid)
    stage.run(10.0)
    left = stage.core.eta(live_program(stage, "a"), stage.clock.now())[0]
    assert left == pytest.approx(311.0, rel=0.01)  # pyright: ignore[reportUnknownMemberType]


def test_a_place_says_the_speeds_of_its_model() -> None:
    stage = Stage()
    stage.join(prefill=5000.0, step=0.02)
    stage.submit("c")
    assert stage.placed[0].prefill_token_seconds == 1 / 5000.0
    assert stage.placed[0].step_seconds == 0.02


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "finish", "end", "foresee", "foresee", "lost", "wait"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.floats(0.0, 60.0),
        st.integers(1, 6),
    ),
    max_size=60,
)


def play(stage: Stage, steps: list[tuple[str, int, int, float, int]], *, said: bool) -> list[Place]:
    """`said`: the workflow service speaks; else only who calls does."""
    for number, (what, program, call, amount, revision) in enumerate(steps):
        program_id, call_id = f"p{program}", f"c{call}"
        match what:
            case "submit":
                stage.submit(call_id, program_id, thread=f"t{call % 2}", prompt=16 * (1 + number % 5))
            case "finish":
                if (place := next(iter(stage.running.values()), None)) is not None:
                    stage.finish(place.call_id, place.program_id, amount)
            case "wait":
                stage.run(amount)
            case "foresee" if said:
                named = call_id if call else ""
                law = Forecast(Point(1.0 + amount), None, Point(amount), Point(amount), amount - 30.0)
                foresee(stage, program_id, named, revision=revision, valid=amount, thread=f"t{call % 2}", forecast=law)
            case "lost" if said:
                stage.feed(ForecasterLost())
            case _:
                pass
    return stage.placed


@settings(max_examples=60)
@given(_STEPS)
def test_whatever_is_said_the_core_stays_whole(steps: list[tuple[str, int, int, float, int]]) -> None:
    stage = Stage(policy="legato", ordering="")
    stage.join("v", seqs=2, blocks=40)
    stage.join("w", seqs=1, blocks=40)
    play(stage, steps, said=True)
    stage.run(1000.0)
    for place in list(stage.running.values()):
        stage.finish(place.call_id, place.program_id)


@settings(max_examples=30)
@given(_STEPS)
def test_a_service_whose_word_never_holds_changes_no_decision(steps: list[tuple[str, int, int, float, int]]) -> None:
    without = Stage(policy="legato", ordering="")
    beside = Stage(policy="legato", ordering="")
    for stage in (without, beside):
        stage.join("v", seqs=2, blocks=40)
    void = [(what, program, call, 0.0 if what == "foresee" else amount, n) for what, program, call, amount, n in steps]
    assert play(beside, void, said=True) == play(without, void, said=False)
