"""When programs will be done, as it is told and as it is refused by, against programs whose ends are known."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Reason
from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import Empirical, Exponential, Law, LogNormal, Lomax, Point
from services.common.laws.hazard import Hazard
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.eta import Eta, Paces, Rest, quantile
from services.scheduler.events import (
    Action,
    CallFinished,
    CallSubmitted,
    Event,
    FleetKnown,
    LoadReported,
    Place,
    ProgramEnded,
    Reject,
    TokenUsage,
    WorkerJoined,
)

STEP_SECONDS = 0.01


class Shop:
    """One worker. Programs of three calls of 100 tokens, 1 engine second each and a second of a tool after it."""

    def __init__(self, seqs: int = 100, **settings: object) -> None:
        section = SchedulerSection.model_validate({"reject_unreachable_deadlines": True, **settings})
        self.core = Core(section.limits(), section.load_policy())
        self.now = 0.0
        load = LoadReported("w", step_seconds=STEP_SECONDS, prefill_tokens_per_second=1e9)
        self.feed(WorkerJoined("w", "host:1", "m", 10**6, seqs, 16, 10**6, load))
        self.feed(FleetKnown())

    def feed(self, event: Event) -> list[Action]:
        actions = self.core.handle(event, self.now)
        while (due := self.core.next_tick()) is not None and due <= self.now:
            actions += self.core.tick(self.now)
        self.core.check()
        return actions

    def submit(
        self,
        program_id: str,
        call_id: str = "c",
        *,
        deadline: float = 0.0,
        attempt: int = 0,
        worker_id: str = "",
        forecast: Forecast = NO_FORECAST,
        agent: str = "a",
    ) -> Reject | None:
        """How it was refused."""
        actions = self.feed(
            CallSubmitted(
                1,
                program_id,
                call_id,
                "m",
                10,
                0,
                agent=agent,
                attempt=attempt,
                worker_id=worker_id,
                deadline_seconds=deadline,
                forecast=forecast,
            )
        )
        return next((action for action in actions if isinstance(action, Reject)), None)

    def finish(self, program_id: str, call_id: str = "c") -> None:
        self.feed(CallFinished(1, program_id, call_id, True, TokenUsage(10, 100)))

    def call(self, program_id: str, call_id: str) -> Eta:
        """One call and the tool after it; what the program's end is said to be when it is placed."""
        assert self.submit(program_id, call_id) is None
        told = self.eta(program_id)
        self.now += 1.0
        self.finish(program_id, call_id)
        self.now += 1.0
        return told

    def program(self, program_id: str) -> list[Eta]:
        told = [self.call(program_id, f"c{turn}") for turn in range(3)]
        self.feed(ProgramEnded(program_id))
        return told

    def eta(self, program_id: str) -> Eta:
        program = self.core.programs.get(program_id)
        assert program is not None
        return self.core.eta(program, self.now)


def learned(num_programs: int = 30, **settings: object) -> Shop:
    shop = Shop(**settings)  # pyright: ignore[reportArgumentType] (settings of a section)
    for number in range(num_programs):
        shop.program(f"past-{number}")
    return shop


def test_of_a_kind_never_seen_the_end_may_be_now_or_far() -> None:
    shop = Shop()
    shop.submit("p")
    expected, low, high = shop.eta("p")
    assert low == 0
    assert 1 < expected < high
    assert high > 100


def test_of_a_kind_well_known_the_interval_is_where_its_programs_end() -> None:
    told = learned().program("p")
    for (expected, low, high), left in zip(told, (5.0, 3.0, 1.0), strict=True):  # the last tool is not waited for
        assert low <= expected <= high
        assert 0.5 * left <= low <= 1.3 * left
        assert 0.6 * left <= expected <= 1.7 * left


def test_the_interval_narrows_as_programs_are_seen() -> None:
    widths: list[float] = []
    for num_programs in (0, 3, 30, 200):
        shop = learned(num_programs)
        shop.submit("p")
        _, low, high = shop.eta("p")
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_a_running_call_brings_the_end_nearer() -> None:
    shop = learned()
    shop.submit("p")
    told: list[float] = []
    for _ in range(4):
        told.append(shop.eta("p")[0])
        shop.now += 0.25
    assert told == sorted(told, reverse=True)
    assert told[0] - told[-1] == pytest.approx(0.75, abs=0.3)


def test_what_waits_now_is_waited_for() -> None:
    shop = learned(seqs=1, lookahead_calls=0)
    shop.submit("first")
    idle = shop.eta("first")
    for number in range(40):
        shop.submit(f"p{number}")
    program = shop.core.programs.get("p39")
    assert program is not None
    assert program.num_queued == 1
    expected, low, high = shop.eta("p39")
    assert expected > idle[0] + 5
    assert high >= expected
    assert low == pytest.approx(idle[1], rel=1e-6), "it may go first"


def test_a_forecast_goes_before_what_was_learned() -> None:
    shop = learned()
    shop.submit("p", forecast=Forecast(remaining=Point(50.0)))
    expected, low, high = shop.eta("p")
    assert 50 * 0.99 <= low <= expected <= high <= 50 * 2
    shop.now += 10
    shop.finish("p")
    assert shop.eta("p")[1] == pytest.approx(low - 1.0 * low / 50, rel=0.01), "one engine second of 50 has passed"


def test_a_program_that_cannot_be_in_time_is_refused_before_it_begins() -> None:
    shop = learned()
    refused = shop.submit("late", deadline=0.5)
    assert refused is not None
    assert refused.reason is Reason.DEADLINE_UNREACHABLE
    low = float(refused.message.split()[-5])
    assert refused.message == f"the program is due in 0.5 s and ends in {low:.1f} s at the earliest"
    assert 2 < low < 6
    assert shop.core.programs.get("late") is None
    assert shop.submit("in time", deadline=20.0) is None
    assert shop.submit("no deadline") is None


def test_nothing_is_refused_where_little_is_known_or_the_setting_is_off() -> None:
    assert Shop().submit("p", deadline=0.01) is None
    assert learned(reject_unreachable_deadlines=False).submit("p", deadline=0.01) is None
    assert learned().submit("p", deadline=0.01, agent="another") is None


def test_a_call_that_ran_before_is_never_refused() -> None:
    shop = learned()
    assert shop.submit("p", "announced", deadline=0.1, attempt=1, worker_id="w") is None
    assert shop.submit("q", "restarted", deadline=0.1, attempt=1) is None


def test_a_program_that_has_begun_is_refused_only_when_it_is_hopeless() -> None:
    shop = learned()
    assert shop.submit("p", "c0", deadline=6.0) is None
    shop.now += 5.9
    shop.finish("p", "c0")
    assert shop.submit("p", "c1") is None, "3 s left, due in 0.1 s, but there are 6 s of grace"
    shop.now += 9.0
    shop.finish("p", "c1")
    refused = shop.submit("p", "c2")
    assert refused is not None
    assert refused.message.startswith("the program was due 8.9 s ago")


def test_a_forecast_of_the_call_itself_counts_at_the_door() -> None:
    refused = Shop().submit("p", deadline=5.0, forecast=Forecast(remaining=Point(6.0)))
    assert refused is not None
    assert "6.0 s at the earliest" in refused.message
    assert Shop().submit("p", deadline=7.0, forecast=Forecast(remaining=Point(6.0))) is None


def test_an_eta_goes_out_with_each_place() -> None:
    shop = Shop()
    actions = shop.feed(CallSubmitted(1, "p", "c", "m", 10, 0))
    assert any(isinstance(action, Place) for action in actions)
    assert all(seconds >= 0 for seconds in shop.eta("p"))


LAWS: st.SearchStrategy[Law] = st.one_of(
    st.builds(Exponential, st.floats(0.01, 10)),
    st.builds(Lomax, st.floats(0.5, 4), st.floats(0.1, 100)),
    st.builds(LogNormal, st.floats(-1, 3), st.floats(0.1, 2)),
    st.builds(Point, st.floats(0.1, 100)),
    st.builds(Empirical, st.lists(st.floats(0.01, 100), min_size=1, max_size=20)),
    st.builds(Hazard, st.lists(st.floats(1e-3, 10), min_size=73, max_size=73)),
)


@given(LAWS, st.floats(0.001, 0.999), st.floats(0, 50))
def test_a_quantile_is_where_the_cdf_reaches_the_chance(law: Law, chance: float, elapsed: float) -> None:
    tau = quantile(law, chance, elapsed)
    assert 0 <= tau < inf
    if tau < 1e7:
        assert law.cdf(tau * 1.01 + 1e-6, elapsed) >= chance - 1e-6
    if tau > 1e-2:
        assert law.cdf(tau * 0.99 - 1e-6, elapsed) <= chance + 1e-6


@given(
    LAWS,
    st.floats(0, 50),
    st.integers(0, 300),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 100), st.floats(0, 100)), max_size=10),
    st.floats(0, 100),
)
def test_the_interval_holds_what_is_expected(
    law: Law, attained: float, num_seen: int, ended: list[tuple[float, float, float]], wait: float
) -> None:
    paces = Paces()
    for service, span, queued in ended:
        paces.add(("t", "a"), 2, service, service + span + queued, service + span)
    learned_paces = paces.of(("t", "a"))[1:]
    expected, low, high = Rest(law, law, attained, inf, num_seen, *learned_paces).eta(0.0, wait)
    assert 0 <= low <= expected <= high < inf
