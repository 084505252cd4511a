"""Planted graphs are found: branches, loops, fan-out, joins, drift, with nothing declared."""

import heapq
import random
from collections.abc import Callable

import pytest

from services.workflow.structure import Graph, Structure
from tests.workflow.planted import Planted, tell, tell_all


def branching(program: Planted, luck: random.Random) -> None:
    plan = program.call("planner")
    program.call("writer" if luck.random() < 0.7 else "coder", [plan])


def looping(program: Planted, luck: random.Random) -> None:
    last = program.call("writer")
    while True:
        last = program.call("critic", [last])
        if luck.random() > 0.6:
            return
        last = program.call("writer", [last])


def map_reduce(program: Planted, luck: random.Random) -> None:
    plan = program.call("planner")
    maps = [program.call("mapper", [plan], seconds=luck.uniform(1, 5)) for _ in range(3)]
    program.call("reducer", maps)


def race(program: Planted, luck: random.Random) -> None:
    plan = program.call("planner")
    searches = [program.call("searcher", [plan], seconds=luck.uniform(1, 5)) for _ in range(3)]
    first = min(searches, key=lambda each: program.ends[each])
    program.call("answerer", [first], seconds=0.1)


def pipelines(program: Planted, luck: random.Random) -> None:
    plan = program.call("planner")
    for _ in range(3):
        program.call("reviewer", [program.call("mapper", [plan], seconds=luck.uniform(1, 5))], seconds=0.01)


def subagents(program: Planted, luck: random.Random) -> None:
    """Threads of several calls, joined by the thread that spawned them; content never tells."""
    main = program.call("main", tools=("task",))
    ends: list[str] = []
    for name in ("scout", "tester"):
        last = program.call(name, [main], seconds=luck.uniform(1, 2), tools=("read",))
        for turn in range(luck.randint(1, 4)):
            tools = ("read",) if turn < 0 else ()
            last = program.call(name, [last], extends=last, seconds=luck.uniform(1, 2), tools=tools)
        ends.append(last)
    program.call("main", ends, extends=main)


def debate(program: Planted, luck: random.Random) -> None:
    """Who uses whose output tells who waited for whom."""
    sides = [program.call(side, seconds=luck.uniform(1, 2)) for side in ("pro", "con")]
    for _ in range(2):
        sides = [
            program.call(side, sides, extends=mine, uses=[other], seconds=luck.uniform(1, 2))
            for side, mine, other in zip(("pro", "con"), sides, reversed(sides), strict=True)
        ]
    program.call("judge", sides, uses=sides)


Plant = Callable[[Planted, random.Random], None]


def learned(plant: Plant, count: int = 200) -> Graph:
    return tell_all(Structure(), plant, count)


def test_branch_probabilities_are_recovered():
    following = learned(branching).next_roles("planner")
    assert following["writer"] == pytest.approx(0.7, abs=0.1)
    assert following["coder"] == pytest.approx(0.3, abs=0.1)


def test_a_loop_is_found_with_its_repetitions():
    loops = learned(looping).loops()
    assert set(loops) == {("critic", "writer")}
    assert loops["critic", "writer"] == pytest.approx(0.6 / 0.4, rel=0.3)


def test_fan_out_and_an_and_join_are_found():
    graph = learned(map_reduce, 20)
    assert graph.widths("mapper") == {3: pytest.approx(1.0)}
    assert graph.joins("reducer") == (pytest.approx(1.0), 0.0)
    assert set(graph.edges()) == {("planner", "mapper"), ("mapper", "reducer")}


def test_an_or_join_is_told_from_an_and_join():
    graph = learned(race, 20)
    assert graph.joins("answerer") == (0.0, pytest.approx(1.0))


def test_branches_that_go_on_by_themselves_are_no_join():
    assert learned(pipelines, 20).joins("reviewer") == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_graph_that_changes_is_followed():
    def before(program: Planted, luck: random.Random) -> None:
        program.call("writer", [program.call("planner")])

    def after(program: Planted, luck: random.Random) -> None:
        program.call("planner", [plan := program.call("planner")], extends=plan)
        program.call("writer", ["c1"]) if luck.random() < 0.5 else program.call("coder", ["c1"])

    structure = Structure()
    assert tell_all(structure, before, 150).next_roles("planner") == {"writer": pytest.approx(1.0)}
    graph = tell_all(structure, after, 150)
    assert graph.next_roles("planner")["planner"] > 0.4
    assert graph.next_roles("planner")["writer"] < 0.4


def test_turns_left_fall_as_a_chain_nears_its_usual_end():
    def five(program: Planted, luck: random.Random) -> None:
        last = program.call("solver")
        for _ in range(4):
            last = program.call("solver", [last], extends=last)

    graph = learned(five, 50)
    assert graph.turns_left("solver", 0) == pytest.approx(4, abs=1.5)
    assert graph.turns_left("solver", 4) < 0.5


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("plant", [branching, looping, map_reduce, race, pipelines, subagents, debate])
def test_parents_of_interleaved_programs_are_found(plant: Plant, named: bool):
    programs = [Planted(f"p{number}", named=named, start=number * 0.37) for number in range(20)]
    for number, program in enumerate(programs):
        plant(program, random.Random(number))
    seen, _ = tell(Structure(), heapq.merge(*(program.events() for program in programs), key=lambda entry: entry[0]))
    for program in programs:
        found = {call_id: set(seen[program.program_id, call_id].parents) for call_id in program.parents}
        assert found == {call_id: set(parents) for call_id, parents in program.parents.items()}
