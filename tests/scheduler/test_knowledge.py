"""What the scheduler learns of calls and programs, and what it expects by it."""

import random

import pytest

from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import NEVER, Exponential, Point
from services.scheduler import ordering
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.engine_seconds import EngineSeconds
from services.scheduler.events import (
    CallFinished,
    CallSubmitted,
    FleetKnown,
    LoadReported,
    ProgramEnded,
    TokenUsage,
    WorkerJoined,
)
from services.scheduler.habits import Averages, Coupling, Samples, Waits
from services.scheduler.records import Call
from tests.scheduler import believed

STEP_SECONDS = 0.01
PREFILL_SECONDS = 0.0001


class Past:
    """A core that sees programs go by, each call placed at once."""

    def __init__(self) -> None:
        section = SchedulerSection()
        self.core = Core(section.limits(), section.load_policy())
        self.now = 0.0
        load = LoadReported("w", 0, 0, STEP_SECONDS, 1.0 / PREFILL_SECONDS)
        self.feed(WorkerJoined("w", "host:1", "m", 10**6, 1000, 16, 10**6, load))
        self.feed(FleetKnown())

    def feed(self, event: object) -> None:
        self.core.handle(event, self.now)  # pyright: ignore[reportArgumentType] (any of the union)
        self.core.check()

    def submit(
        self,
        program_id: str,
        call_id: str,
        *,
        agent: str = "a",
        tenant: str = "t",
        prompt: int = 1000,
        forecast: Forecast = NO_FORECAST,
    ) -> Call:
        self.feed(
            CallSubmitted(1, program_id, call_id, "m", prompt, 0, tenant, agent, forecast=forecast),
        )
        call = self.core.calls.get((program_id, call_id))
        assert call is not None
        return call

    def finish(
        self,
        call: Call,
        output: int,
        *,
        lasts: float = 0.0,
        cached: int = 0,
        completed: bool = True,
        prompt: int = 1000,
    ) -> None:
        self.now += lasts
        self.feed(CallFinished(1, *call.key, completed, TokenUsage(prompt, output, cached)))

    def program(
        self, name: str, outputs: list[int], *, agent: str = "a", tenant: str = "t", gap: float = 1.0, ends: bool = True
    ) -> None:
        """One whole program: a chain of calls with nothing cached."""
        for number, output in enumerate(outputs):
            self.finish(self.submit(name, f"c{number}", agent=agent, tenant=tenant), output, lasts=1.0)
            self.now += gap
        if ends:
            self.feed(ProgramEnded(name))


def test_engine_seconds_are_those_of_an_undisturbed_engine() -> None:
    past = Past()
    past.feed(LoadReported("w", 60, 0, 10 * STEP_SECONDS, 0.1 / PREFILL_SECONDS))  # crowded
    call = past.submit("p", "c")
    past.finish(call, 200, lasts=77.0, cached=400)
    program = past.core.programs.get("p")
    assert program is not None
    assert program.attained_seconds == pytest.approx(600 * PREFILL_SECONDS + 200 * STEP_SECONDS)
    assert program.served_seconds == program.attained_seconds
    assert program.executed_seconds == pytest.approx(77.0)


def test_speeds_are_assumed_until_a_worker_reports_and_kept_by_model() -> None:
    limits = SchedulerSection().limits()
    measured = EngineSeconds(limits)
    speed = measured.of("m")
    assert speed.seconds(0, 1) == limits.assumed_step_seconds
    measured.report("m", LoadReported("w", step_seconds=0.05))
    assert speed.step_seconds == 0.05
    measured.report("m", LoadReported("w", step_seconds=0.02))
    measured.report("m", LoadReported("w", step_seconds=0.09))
    assert speed.step_seconds == 0.02
    assert measured.of("other").step_seconds == limits.assumed_step_seconds


def test_the_law_of_a_kind_is_learned_from_what_its_programs_took() -> None:
    past = Past()
    rng = random.Random(1)
    for number in range(300):
        past.program(f"short{number}", [rng.randint(80, 120)], agent="short")
        past.program(f"long{number}", [rng.randint(800, 1200) for _ in range(5)], agent="long")
    short = past.submit("s", "c", agent="short").expected
    long = past.submit("l", "c", agent="long").expected
    assert short.remaining_mean() == pytest.approx(1.1, rel=0.2)
    assert long.remaining_mean() == pytest.approx(5 * 10.1, rel=0.2)
    assert short.remaining.cdf(2.0) > 0.9
    assert long.remaining.cdf(20.0) < 0.1
    assert short.uncertainty < 0.7  # the powers of two between which they lie


def test_what_was_served_conditions_the_law() -> None:
    """Half of the programs take one call, half twenty: who makes a second one has most before him."""
    past = Past()
    for number in range(200):
        past.program(f"p{number}", [100] * (1 if number % 2 else 20))
    first = past.submit("p", "c0")
    fresh = first.expected.remaining_mean()
    past.finish(first, 100)
    second = past.submit("p", "c1")
    assert second.expected.attained_seconds == pytest.approx(1.1)
    assert second.expected.remaining_mean() > 1.5 * fresh


def test_programs_that_never_end_are_not_mistaken_for_short_ones() -> None:
    past = Past()
    for number in range(60):
        past.program(f"live{number}", [1000] * 30, ends=False)
    for number in range(3):
        past.program(f"p{number}", [100])
    assert past.submit("p", "c").expected.remaining_mean() > 100.0


def test_a_tenant_that_is_new_is_believed_to_be_as_all() -> None:
    past = Past()
    for number in range(200):
        past.program(f"p{number}", [100], tenant="known")
    expected = past.submit("q", "c", tenant="new").expected
    assert expected.remaining_mean() == pytest.approx(1.1, rel=0.3)


def test_what_changed_is_noticed() -> None:
    past = Past()
    for number in range(500):
        past.program(f"old{number}", [100])
    for number in range(2500):
        past.program(f"new{number}", [1000])
    assert past.submit("p", "c").expected.remaining_mean() > 7.0


def test_a_call_is_expected_to_be_cached_as_those_before_it_in_their_threads() -> None:
    past = Past()
    for number in range(40):
        for call_id, cached in (("c0", 0), ("c1", 900)):
            past.finish(past.submit(f"p{number}", call_id), 100, lasts=1.0, cached=cached)
        past.feed(ProgramEnded(f"p{number}"))
    first = past.submit("p", "c0")
    assert first.expected.service_seconds == pytest.approx(1000 * PREFILL_SECONDS + 100 * STEP_SECONDS, rel=0.05)
    past.finish(first, 100)
    again = past.submit("p", "c1")
    assert again.expected.service_seconds == pytest.approx(100 * PREFILL_SECONDS + 100 * STEP_SECONDS, rel=0.05)


def test_returns_are_learned_by_agent_and_last_from_the_end_of_the_call() -> None:
    past = Past()
    for number in range(150):
        past.program(f"p{number}", [100] * 4, agent="fast", gap=0.5)
        past.program(f"q{number}", [100] * 4, agent="slow", gap=60.0)
    fast, slow = (past.submit(f"x{agent}", "c", agent=agent).expected for agent in ("fast", "slow"))
    assert fast.returns.cdf(1.0) > 0.6  # of four calls one is the last, but that is told, not waited for
    assert slow.returns.cdf(20.0) < 0.2
    assert slow.returns.cdf(100.0) > 0.6
    assert fast.away_seconds == float("inf")


def test_threads_of_one_program_return_apart() -> None:
    past = Past()
    past.finish(past.submit("p", "c0"), 100, lasts=1.0)
    past.now += 7.0
    assert past.submit("p", "c1").expected.away_seconds == pytest.approx(7.0)
    assert past.submit("p", "c2").expected.away_seconds == pytest.approx(7.0)


def test_latency_is_that_to_the_end_of_the_program_by_agent() -> None:
    past = Past()
    for number in range(30):
        past.finish(past.submit(f"p{number}", "plan", agent="planner"), 100, lasts=2.0)
        past.now += 10.0
        past.finish(past.submit(f"p{number}", "say", agent="writer"), 100, lasts=3.0)
        past.feed(ProgramEnded(f"p{number}"))
    planner = past.submit("p", "plan", agent="planner")
    assert planner.expected.latency_seconds == pytest.approx(15.0)
    assert past.submit("p", "say", agent="writer").expected.latency_seconds == pytest.approx(3.0)
    assert planner.expected.span_seconds == pytest.approx(15.0)


def test_forecasts_go_before_what_was_learned() -> None:
    past = Past()
    for number in range(50):
        past.program(f"p{number}", [100])
    returns = Exponential(0.5)
    forecast = Forecast(Point(700.0), Point(9.0), Point(33.0), returns, importance=2.0, information=1.5)
    call = past.submit("p", "c", forecast=forecast)
    expected = call.expected
    assert call.expected_output == 700.0
    assert expected.service_seconds == 9.0
    assert expected.remaining_mean() == 33.0
    assert (expected.returns, expected.importance, expected.information) == (returns, 2.0, 1.5)
    assert expected.output.truncated_mean(1e9) == 700.0
    partial = past.submit("q", "c", forecast=Forecast(returns=NEVER)).expected
    assert partial.returns is NEVER
    assert partial.remaining_mean() == pytest.approx(1.1, rel=0.3)


def test_a_forecast_of_what_remains_is_counted_from_the_call_on() -> None:
    past = Past()
    first = past.submit("p", "c0", forecast=Forecast(remaining=Point(30.0)))
    past.finish(first, 1000)
    second = past.submit("p", "c1", forecast=Forecast(remaining=Point(20.0)))
    assert second.inherited_seconds > 10.0
    assert second.expected.remaining_mean() == 20.0


def test_an_aborted_call_teaches_no_length() -> None:
    past = Past()
    for number in range(50):
        past.program(f"p{number}", [100])
    for number in range(50):
        past.finish(past.submit(f"q{number}", "c"), 3, completed=False)
    assert past.submit("p", "c").expected_output == pytest.approx(100.0)


def test_what_is_kept_is_bounded_by_the_programs_that_live() -> None:
    past = Past()
    for number in range(8):
        past.program(f"p{number}", [10] * 100)
    past.program("live", [10] * 200, ends=False)
    assert past.core.knowledge.num_trails == 1


def test_averages_are_means_at_first_and_follow_what_changes() -> None:
    averages = Averages()
    for value in (1.0, 2.0, 3.0):
        averages.add(("k",), value)
    assert averages.of([("unknown",), ("k",)], 9.0) == pytest.approx(2.0)
    assert averages.of([("unknown",)], 9.0) == 9.0
    for _ in range(200):
        averages.add(("k",), 10.0)
    assert averages.of([("k",)], 0.0) == pytest.approx(10.0, rel=0.01)


def test_samples_tell_how_different_they_are() -> None:
    samples = Samples()
    assert samples.law(("k",)) is None
    unknown = samples.entropy(("k",))
    for number in range(400):
        samples.add(("even",), 3.0)
        samples.add(("odd",), 1.0 if number % 2 else 30.0)
    assert samples.entropy(("even",)) == pytest.approx(0.0)
    assert samples.entropy(("odd",)) == pytest.approx(0.6931, abs=0.01)
    assert samples.entropy(("odd",)) < unknown
    law = samples.law(("odd",))
    assert law is not None
    assert law.cdf(5.0) == pytest.approx(0.5)


def test_coupling_is_mutual_information() -> None:
    coupling, rng = Coupling(), random.Random(3)
    for _ in range(2500):
        tells, other = rng.choice((1.0, 30.0)), rng.choice((1.0, 30.0))
        coupling.add(("told",), tells, 10 * tells)
        coupling.add(("apart",), tells, other)
    assert coupling.information(("told",)) == pytest.approx(0.6931, abs=0.02)
    assert coupling.information(("apart",)) < 0.01
    assert coupling.information(("unknown",)) == 0.0


def test_the_clock_of_waits_counts_typical_waits_and_never_goes_back() -> None:
    waits = Waits()
    assert waits.time(30.0) == pytest.approx(3.0)  # before any wait is known: 10 s
    for _ in range(5000):
        for seconds in (0.0, 0.0, 0.0, 100.0):  # who waits, waits for 100 s
            waits.add(seconds)
    assert waits.typical_seconds == pytest.approx(100.0)
    assert waits.time(230.0) == pytest.approx(5.0)
    assert waits.time(200.0) == pytest.approx(5.0)


def test_order_means_the_same_under_any_load() -> None:
    """A call that is 2.5 times as costly is overtaken by those that come within one typical wait, not by later ones."""
    for typical in (20.0, 2000.0):
        waits = Waits()
        for _ in range(5000):
            waits.add(typical)
        ages = [waits.time(now) for now in (0.0, 0.5 * typical, 1.5 * typical)]
        costly, soon, late = (
            believed.call(believed.expected(Point(size)), arrived=age * believed.TYPICAL_SECONDS)
            for size, age in zip((25.0, 10.0, 10.0), ages, strict=True)
        )
        rank = ordering.load("gittins", patience=1.0).rank
        assert rank(soon) < rank(costly) < rank(late)
