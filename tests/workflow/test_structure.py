"""What the structure says of calls, one rule at a time, and what holds for any log."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver
from services.workflow.structure import Seen, Structure
from services.workflow.structure.families import Families
from services.workflow.structure.record import MAX_CALLS
from services.workflow.structure.tally import FOLLOWS, Tally
from tests.workflow.planted import Planted, content, tell


def seen_of(program: Planted) -> dict[str, Seen]:
    return {call_id: seen for (_, call_id), seen in tell(Structure(), program.events())[0].items()}


def test_a_prompt_that_extends_another_waited_for_it_and_is_its_next_turn():
    program = Planted("p")
    last = program.call("solver")
    for _ in range(3):
        last = program.call("solver", [last], extends=last)
    seen = seen_of(program)
    assert [seen[call].predecessor for call in ("c0", "c1", "c2", "c3")] == ["", "c0", "c1", "c2"]
    assert seen["c3"].turn == 3


def test_a_predecessor_is_found_though_its_output_was_stripped():
    program = Planted("p")
    first = program.call("solver", prompt=[content("s"), content("u1")])
    program.call("other", [first])
    program.call("solver", [first], prompt=[content("s"), content("u1"), content("stripped"), content("u2")])
    assert seen_of(program)["c2"].predecessor == "c0"


def test_the_last_call_of_a_chain_is_the_predecessor_though_what_it_said_and_read_was_edited():
    program = Planted("p")
    first = program.call("solver", prompt=[1, 2])
    second = program.call("solver", [first], prompt=[1, 2, 31, 4])
    program.call("solver", [second], prompt=[1, 2, 32, 4, 5, 6])
    assert seen_of(program)["c2"].predecessor == "c1"


def test_two_that_extend_the_same_prompt_wait_for_the_same_call():
    program = Planted("p")
    trunk = program.call("solver")
    left = program.call("solver", [trunk], extends=trunk, seconds=2)
    right = program.call("solver", [trunk], extends=trunk, seconds=3)
    program.call("solver", [left], extends=left, seconds=5)
    program.call("solver", [right], extends=right)
    seen = seen_of(program)
    assert [seen[call].parents for call in ("c1", "c2", "c3", "c4")] == [("c0",), ("c0",), ("c1",), ("c2",)]


def test_outputs_that_a_prompt_contains_say_who_was_waited_for_whoever_ended_last():
    program = Planted("p")
    used = program.call("miner", seconds=1)
    program.call("stray", seconds=2)
    program.call("long", seconds=9)
    program.call("user", [used, "c1"], uses=[used])
    assert seen_of(program)["c3"].parents == ("c0",)


def test_a_parent_that_another_parent_waited_for_is_left_out():
    program = Planted("p")
    first = program.call("a")
    second = program.call("b", [first], uses=[first])
    program.call("c", [second], uses=[first, second])
    assert seen_of(program)["c2"].parents == ("c1",)


def test_declared_parents_win():
    program = Planted("p")
    first = program.call("a")
    program.call("b", [first])
    program.call("c", ["c1"])
    events = [
        (
            now,
            dataclasses.replace(event, parents=("c0",))
            if isinstance(event, CallBegan) and event.call_id == "c2"
            else event,
        )
        for now, event in program.events()
    ]
    assert tell(Structure(), events)[0]["p", "c2"].parents == ("c0",)


def test_declared_threads_say_who_goes_on_from_whom():
    structure = Structure()
    structure.begin(CallBegan("p", "c0", 10, thread="t", agent="a", messages=[1, 2], roles="su"), 0.0)
    structure.end(CallEnded("p", "c0", True), 1.0)
    seen = structure.begin(CallBegan("p", "c1", 10, thread="t", agent="a", messages=[3, 4], roles="su"), 2.0)
    assert seen.predecessor == "c0"


def test_an_event_that_is_told_twice_counts_once():
    once, twice = Structure(), Structure()
    program = Planted("p")
    plan = program.call("planner")
    for _ in range(2):
        program.call("writer", [plan])
    events = program.events()
    assert tell(once, events)[0] == tell(twice, [entry for entry in events[:-1] for _ in range(2)] + events[-1:])[0]
    family = once.graph(("", "family", "planner", 1))
    again = twice.graph(("", "family", "planner", 1))
    assert family is not None
    assert again is not None
    assert family.edges() == again.edges()
    assert family.widths("writer") == again.widths("writer")


def test_a_call_that_is_tried_again_waited_for_what_the_failed_one_waited_for():
    program = Planted("p")
    first = program.call("planner")
    program.call("writer", [first], prompt=[7, 8])
    program.call("writer", ["c1"], prompt=[7, 8])
    failed = [
        (now, dataclasses.replace(event, completed=event.call_id != "c1") if isinstance(event, CallEnded) else event)
        for now, event in program.events()
    ]
    assert tell(Structure(), failed)[0]["p", "c2"].parents == ("c0",)


def test_events_out_of_order_are_no_harm():
    structure = Structure()
    structure.end(CallEnded("p", "c0", True), 5.0)
    structure.begin(CallBegan("p", "c0", 10, messages=[1, 2]), 3.0)
    structure.begin(CallBegan("p", "c1", 10, messages=[1, 2, 3]), 2.0)
    structure.over("p", 1.0)
    structure.end(CallEnded("p", "c1", True), 0.0)
    structure.check()
    assert structure.family_of("p") is None


def test_steps_name_the_nodes_of_the_graph():
    structure = Structure()
    program = Planted("p", workflow="report")
    draft = program.call("writer", step="draft")
    program.call("writer", [draft], step="polish")
    (key,) = tell(structure, program.events())[1]
    assert key == ("", "workflow", "report")
    graph = structure.graph(key)
    assert graph is not None
    assert graph.next_roles("draft") == {"polish": pytest.approx(1.0)}


def test_kinds_go_from_all_programs_to_the_family():
    structure = Structure()
    seen = dict[tuple[str, str], Seen]()
    for number in range(3):
        program = Planted(f"p{number}", tenant="acme")
        program.call("writer", [program.call("planner")])
        seen |= tell(structure, program.events())[0]
    kinds = seen["p2", "c1"].kinds
    assert kinds[:3] == ((), ("acme",), ("", "first", "planner"))
    assert kinds[-2:] == (("", "family", "planner", 1), ("", "variant", kinds[-1][2], 1))


@pytest.mark.parametrize(("workflow", "num_families"), [("", 1), ("review", 2)])
def test_tenants_share_families_unless_they_name_them(workflow: str, num_families: int):
    structure = Structure()
    families = set[object]()
    for tenant in ("a", "b"):
        program = Planted(f"p/{tenant}", tenant=tenant, workflow=workflow)
        program.call("planner")
        families.update(tell(structure, program.events())[1])
    assert len(families) == num_families


def test_a_beginning_gets_a_family_of_its_own_once_programs_share_it():
    structure = Structure()
    settled: list[object] = []
    for number in range(12):
        for name in ("miner", "smith"):
            program = Planted(f"{name}{number}", named=False)
            first = program.call(name)
            program.call(name, [first], extends=first)
            settled += tell(structure, program.events())[1]
    assert settled[0] == settled[1]
    assert len(set(settled[-8:])) == 2
    assert set(settled[-8::2]).isdisjoint(settled[-7::2])


def test_beginnings_that_nobody_shares_are_told_by_their_size():
    structure = Structure()
    roles = set[str]()
    for number in range(10):
        program = Planted(f"p{number}", named=False)
        program.call("solver", prompt=[content("at", number), content("user", number)])
        roles.update(seen.role for seen in tell(structure, program.events())[0].values())
    assert roles == {"~size7"}


def test_families_that_become_alike_are_merged():
    families = Families("family", 10, broad=False)
    tally = Tally()
    tally.count(FOLLOWS, "a", "b")
    one = families.settle("", "", "a", {"a": 100}, tally)
    other = families.settle("", "", "b", {"b": 100}, tally)
    assert other is not one
    for number in (1, 2, 4, 8, 16, *[24] * 40):
        families.settle("", "", "a", {"a": 100, "b": number}, tally)
        families.settle("", "", "b", {"b": 100, "a": number}, tally)
        families.check()
    assert families.get(one.key) is families.get(other.key)
    assert len(families) == 1


def test_what_is_held_is_bounded():
    structure = Structure(max_programs=10, max_calls=300, max_families=5, max_beginnings=50)
    for number in range(40):
        for call in range(20):
            structure.begin(CallBegan(f"p{number}", f"c{call}", 10, agent=f"a{number}", messages=[number, call]), 0.0)
            structure.end(CallEnded(f"p{number}", f"c{call}", True, output=number), 0.0)
        structure.check()


def test_a_long_program_is_followed_by_its_last_calls():
    structure = Structure()
    program = Planted("p")
    last = program.call("solver", prompt=[1, 2])
    for turn in range(3 * MAX_CALLS):
        last = program.call("solver", [last], prompt=[1, 2, *range(turn % 50 + 3)])
    seen = tell(structure, program.events())[0]
    for call_id, parents in program.parents.items():
        assert seen["p", call_id].parents == parents
    structure.check()


def test_what_was_learned_survives_as_a_snapshot():
    before = Structure()
    for number in range(20):
        program = Planted(f"p{number}", named=number % 2 == 0)
        plan = program.call("planner")
        program.call("writer", [plan, program.call("miner", [plan], seconds=3)])
        tell(before, program.events())
    after = Structure()
    after.restore(json.loads(json.dumps(before.snapshot())))
    after.check()
    assert after.snapshot() == before.snapshot()
    for named in (True, False):
        program = Planted(f"next/{named}", named=named)
        program.call("writer", [program.call("planner")])
        assert tell(after, program.events()) == tell(before, program.events())


calls = st.integers(0, 7).map(lambda number: f"c{number}")
programs = st.sampled_from(["p", "q", "r"])
hashes = st.integers(0, 6)
events = st.one_of(
    st.builds(
        CallBegan,
        programs,
        calls,
        st.integers(1, 1000),
        tenant=st.sampled_from(["", "t"]),
        agent=st.sampled_from(["", "a", "b"]),
        thread=st.sampled_from(["", "", "x"]),
        parents=st.lists(calls, max_size=2).map(tuple),
        messages=st.lists(hashes, max_size=6),
        message_tokens=st.lists(st.integers(0, 100), max_size=6),
        roles=st.text("tsuao", max_size=6),
    ),
    st.builds(
        CallEnded,
        programs,
        calls,
        st.booleans(),
        output_tokens=st.integers(0, 50),
        output=hashes,
        tools=st.sampled_from([(), ("bash",)]),
    ),
    st.builds(ProgramOver, programs),
)


@settings(max_examples=200)
@given(st.lists(events, max_size=60))
def test_any_log_is_survived_and_parents_are_earlier_calls_of_the_same_program(log: list[Event]):
    one, other = Structure(2, 12, 2, 10), Structure(2, 12, 2, 10)
    begun: dict[str, set[str]] = {}
    for number, event in enumerate(log):
        match event:
            case CallBegan():
                seen = one.begin(event, -number)
                assert seen == other.begin(event, number)
                earlier = begun.setdefault(event.program_id, set())
                assert {*seen.parents} <= earlier - {event.call_id}
                assert seen.predecessor in {"", *earlier} - {event.call_id}
                assert seen.kinds[0] == ()
                earlier.add(event.call_id)
            case CallEnded():
                one.end(event, -number)
                other.end(event, number)
            case ProgramOver():
                assert one.over(event.program_id, -number) == other.over(event.program_id, number)
            case _:
                raise AssertionError(event)
        one.check()
