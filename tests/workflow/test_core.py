"""The workflow core: what it foresees, what it passes over, and what it keeps."""

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.laws import Law, Quantiles
from services.workflow.core import Core
from services.workflow.events import CallBegan, CallEnded, Event, Foreseen, ProgramOver, ToolRan
from services.workflow.limits import Limits


class Player:
    """Plays programs to a core."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now = 0.0
        self.said: list[Foreseen] = []

    def tell(self, event: Event, after: float = 0.0) -> list[Foreseen]:
        self.now += after
        said = self.core.handle(event, self.now)
        self.said += said
        return said

    def call(
        self,
        program: str,
        call: str,
        *,
        agent: str = "writer",
        after: float = 0.0,
        seconds: float = 2.0,
        output: int = 100,
        tools: tuple[str, ...] = (),
        parents: tuple[str, ...] = (),
    ) -> tuple[Foreseen, Foreseen]:
        """What is foreseen as it begins, and as it ends."""
        began = self.begin(program, call, agent=agent, after=after, parents=parents)
        ended = self.end(program, call, after=seconds, output=output, tools=tools)
        return began, ended[0]

    def begin(
        self, program: str, call: str, *, agent: str = "writer", after: float = 0.0, parents: tuple[str, ...] = ()
    ) -> Foreseen:
        event = CallBegan(program, call, 1000, "tenant", agent=agent, parents=parents, model="m", messages=(1, 2))
        return self.tell(event, after)[0]

    def end(
        self, program: str, call: str, *, after: float = 2.0, output: int = 100, tools: tuple[str, ...] = ()
    ) -> list[Foreseen]:
        event = CallEnded(program, call, True, 1000, 0, output, output / 50.0, hash(call) & 0xFFFF, tools)
        return self.tell(event, after)


def law(of: Law | None) -> Quantiles:
    assert isinstance(of, Quantiles)
    return of


def median(of: Law | None) -> float:
    return law(of).quantile(0.5)


def test_a_call_and_then_its_threads_next_one_are_foreseen() -> None:
    player = Player(Core())
    began, ended = player.call("p", "1")
    assert (began.program_id, began.call_id, began.agent) == ("p", "1", "writer")
    assert (began.forecast.output, began.forecast.remaining, began.forecast.returns) != (None, None, None)
    assert (ended.call_id, ended.forecast.output) == ("", None)
    assert ended.forecast.returns is not None
    assert began.valid_seconds > 0


def test_it_learns_what_programs_of_a_kind_do() -> None:
    """Three calls of 100, 200 and 300 tokens; 5 s after a search, 50 s after a build."""
    player = Player(Core())
    player.now = 1e9
    began: list[Foreseen] = []
    ended: list[Foreseen] = []
    for index in range(60):
        began, ended = [], []
        gap = 0.0
        for turn, tools in enumerate((("search",), ("build",), ())):
            first, last = player.call(
                f"p{index}", str(turn), after=gap, output=100 * (turn + 1), tools=tools, seconds=2.0 * (turn + 1)
            )
            began.append(first)
            ended.append(last)
            gap = (5.0, 50.0, 0.0)[turn]
        player.tell(ProgramOver(f"p{index}"), 1.0)
        player.core.check()
    assert [median(each.forecast.output) for each in began] == pytest.approx([100, 200, 300], rel=0.25)
    assert [median(each.forecast.service) for each in began] == pytest.approx([2, 4, 6], rel=0.3)
    assert [median(each.forecast.remaining) for each in began] == pytest.approx([12, 10, 6], rel=0.25)
    returns = [law(each.forecast.returns) for each in ended]
    assert [median(each) for each in returns[:2]] == pytest.approx([5, 50], rel=0.25)
    assert [each.never for each in returns] == pytest.approx([0.0, 0.0, 1.0], abs=0.25)


def test_programs_that_live_keep_laws_from_taking_them_for_short() -> None:
    """Short programs (2 calls) have ended, as many long ones have made 30 calls and live. By those that ended all are
    short; half of them are, and a new one must not be taken for short with much more than that chance. It may be taken
    for long: most calls are long ones', and who knows better (the turn) has not been heard yet."""

    def chance_of_short(num_long: int) -> float:
        player = Player(Core())
        for call in range(30):
            for index in range(40):
                if index < num_long:
                    player.call(f"long{index}", str(call), after=0.1)
                elif call < 2:
                    player.call(f"short{index}", str(call), after=0.1)
                elif call == 2:
                    player.tell(ProgramOver(f"short{index}"))
        return law(player.begin("new", "0").forecast.remaining).cdf(10.0)

    assert chance_of_short(0) > 0.9
    assert chance_of_short(20) < 0.6


def test_of_branches_the_longest_is_the_most_important() -> None:
    player = Player(Core())
    for index in range(30):
        name = f"p{index}"
        player.call(name, "plan", agent="planner")
        for agent in ("fast", "slow"):
            player.begin(name, f"{agent}0", agent=agent, parents=("plan",))
        player.end(name, "fast0", output=50)
        for turn in range(1, 6):
            player.end(name, f"slow{turn - 1}", output=500)
            player.begin(name, f"slow{turn}", agent="slow", parents=(f"slow{turn - 1}",))
        player.end(name, "slow5", output=500)
        player.call(name, "join", agent="planner", parents=("fast0", "slow5"))
        player.tell(ProgramOver(name), 1.0)
    player.call("new", "plan", agent="planner")
    said = [player.begin("new", "slow0", agent="slow", parents=("plan",))]
    said.append(player.begin("new", "fast0", agent="fast", parents=("plan",)))
    slow, fast = (each.forecast.importance for each in said)
    assert slow == 0.0
    assert fast == pytest.approx(-59.0, rel=0.35)  # 6 * 10 s, less 1 s


def test_importance_is_said_again_only_when_it_has_changed_by_much() -> None:
    player = Player(Core())
    player.call("p", "plan", agent="planner")
    agents = [f"a{index}" for index in range(20)]
    for agent in agents:
        player.begin("p", agent, agent=agent, parents=("plan",))
    before = len(player.said)
    for agent in agents:
        player.end("p", agent, output=100)
    assert len(player.said) - before < 3 * len(agents)


def test_what_is_told_twice_or_of_nobody_changes_nothing() -> None:
    player = Player(Core())
    player.call("p", "1")
    assert player.tell(CallBegan("p", "1", 1000)) == []
    assert player.tell(CallEnded("p", "1", True, output_tokens=9)) == []
    assert player.tell(CallEnded("p", "unknown", True)) == []
    assert player.tell(CallEnded("unknown", "1", True)) == []
    assert player.tell(ToolRan("unknown", "bash", 1.0)) == []
    player.tell(ProgramOver("p"))
    assert player.tell(ProgramOver("p")) == []
    assert player.tell(CallBegan("p", "1", 1000)) == []  # read again from the log
    assert player.core.num_programs == 0
    player.core.check()


def test_a_call_that_failed_teaches_nothing() -> None:
    player = Player(Core())
    for index in range(50):
        player.call(f"p{index}", "1", output=100)
        player.begin(f"p{index}", "2", after=1.0)
        player.tell(CallEnded(f"p{index}", "2", False, output_tokens=1))
        player.tell(ProgramOver(f"p{index}"))
    assert median(player.begin("new", "1").forecast.output) == pytest.approx(100, rel=0.25)


def test_a_program_that_falls_silent_is_over() -> None:
    core = Core(Limits(silent_seconds=100.0))
    player = Player(core)
    assert core.next_tick() is None
    player.call("p", "1")
    player.call("q", "1", after=50.0)
    assert core.next_tick() == pytest.approx(102.0)
    core.tick(102.0)
    assert (core.num_programs, core.next_tick()) == (1, pytest.approx(154.0))
    core.tick(154.0)
    assert core.num_programs == 0


def test_it_is_bounded() -> None:
    limits = Limits(
        max_programs=8, max_calls_per_program=5, max_threads_per_program=3, max_cells=64, max_remembered_calls=20
    )
    player = Player(Core(limits))
    for index in range(40):
        for call in range(7):
            player.tell(CallBegan(f"p{index}", str(call), 1000, agent=f"a{call % 5}"), 0.1)
            player.tell(CallEnded(f"p{index}", str(call), True, output_tokens=10, engine_seconds=1.0), 1.0)
        player.core.check()
    assert player.core.num_programs == 8


def test_calls_of_all_programs_are_bounded() -> None:
    """The programs that were silent for longest make room, however few calls each of them has."""
    core = Core(Limits(max_calls=12))
    player = Player(core)
    for index in range(4):
        player.begin(f"p{index}", "live", agent="other", after=1.0)
    for call in range(8):
        player.call("p3", str(call))
        core.check()
    assert core.num_programs == 4
    player.call("p0", "again")
    core.check()
    assert [core.kind_of(f"p{index}") is not None for index in range(4)] == [True, False, True, True]
    for call in range(40):
        player.call("p3", f"more {call}")
        core.check()
    assert core.num_programs == 1  # one alone is bounded by itself
    assert player.end("p3", "live") != []


def test_that_a_program_made_room_for_others_is_not_learned_as_its_end() -> None:
    player = Player(Core(Limits(max_programs=2)))
    firsts: list[Foreseen] = []
    for index in range(40):
        firsts += [player.call(f"p{index}", str(call), after=5.0, output=100)[1] for call in range(4)][:1]
        player.tell(ProgramOver(f"p{index}"), 1.0)
    before = law(firsts[-1].forecast.returns).never
    firsts += [player.call(f"evicted {index}", "0", after=5.0, output=100)[1] for index in range(100)]
    assert law(firsts[-1].forecast.returns).never == pytest.approx(before, abs=0.05)


def test_a_program_of_more_calls_than_are_kept_is_foreseen_as_others_are() -> None:
    """It goes on after 5 s, twelve times: at none of its calls is it learned that it did not."""
    player = Player(Core(Limits(max_calls_per_program=3)))
    ended: list[Foreseen] = []
    for index in range(40):
        ended = []
        for call in range(12):
            began, last = player.call(f"p{index}", str(call), after=5.0, output=100)
            assert began.forecast.output is not None
            ended.append(last)
            player.core.check()
        assert player.tell(CallBegan(f"p{index}", "0", 1000)) == []  # read again
        player.tell(ProgramOver(f"p{index}"), 1.0)
    assert max(law(each.forecast.returns).never for each in ended[:6]) < 0.2
    assert median(ended[5].forecast.returns) == pytest.approx(5.0, rel=0.25)


def test_a_call_that_is_forgotten_while_it_lives_ends_in_silence() -> None:
    player = Player(Core(Limits(max_calls_per_program=3)))
    for call in range(5):
        player.begin("p", str(call))
        player.core.check()
    assert player.end("p", "0") == []
    said = [player.end("p", str(call)) for call in (2, 3, 4)]
    assert said[-1][0].call_id == ""
    player.core.check()


def test_what_was_learned_survives_a_restart() -> None:
    player = Player(Core())
    for index in range(80):
        player.call(f"p{index}", "1", output=100 + index % 7, tools=("bash",))
        player.call(f"p{index}", "2", after=8.0, output=300)
        player.tell(ProgramOver(f"p{index}"))
    written = json.dumps(player.core.snapshot())
    again = Player(Core())
    again.core.restore(json.loads(written))
    again.core.check()
    for one, other in zip(player.call("new", "1"), again.call("new", "1"), strict=True):
        assert median(other.forecast.remaining) == pytest.approx(median(one.forecast.remaining), rel=0.2)
        soon, soon_again = (law(each.forecast.returns).cdf(20.0) for each in (one, other))
        assert soon_again == pytest.approx(soon, abs=0.15)
    assert len(written) < 1_000_000


def test_the_same_log_leads_to_the_same_forecasts() -> None:
    def told(seed: int) -> list[Foreseen]:
        player, rng = Player(Core()), random.Random(seed)
        for index in range(200):
            program = f"p{rng.randrange(12)}"
            player.call(program, str(index), after=rng.random(), output=rng.randrange(1, 500))
        return player.said

    assert [_plain(each) for each in told(1)] == [_plain(each) for each in told(1)]


def _plain(said: Foreseen) -> Sequence[object]:
    of = said.forecast
    points = [each.points if isinstance(each, Quantiles) else None for each in (of.output, of.remaining, of.returns)]
    return (said.program_id, said.call_id, of.importance, points)


programs = st.sampled_from(["p", "q"])
calls = st.sampled_from([str(number) for number in range(6)])
agents = st.sampled_from(["a", "b", ""])
events = st.one_of(
    st.builds(CallBegan, programs, calls, st.integers(0, 5000), agent=agents, parents=st.lists(calls).map(tuple)),
    st.builds(
        CallEnded,
        programs,
        calls,
        st.booleans(),
        output_tokens=st.integers(0, 5000),
        engine_seconds=st.floats(0.0, 1e6),
        tools=st.sampled_from([(), ("bash",), ("read", "bash")]),
    ),
    st.builds(ToolRan, programs, st.just("bash"), st.floats(0.0, 10.0)),
    st.builds(ProgramOver, programs),
)


@settings(max_examples=60)
@given(told=st.lists(st.tuples(events, st.floats(-5.0, 100.0)), max_size=60))
def test_nothing_that_is_told_breaks_it(told: list[tuple[Event, float]]) -> None:
    core, now = Core(Limits(silent_seconds=150.0)), 0.0
    for event, step in told:
        now += step  # writers' clocks differ: it may run back
        for said in core.handle(event, now):
            for of in (said.forecast.output, said.forecast.service, said.forecast.remaining, said.forecast.returns):
                assert of is None or 0.0 <= law(of).points[0] <= law(of).points[-1] < 1e9
            assert said.forecast.importance <= 0.0
        core.tick(now)
        core.check()
