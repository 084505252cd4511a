"""Plain routers: calls go to engines at once, where the router's rule says."""

import dataclasses
from collections import Counter

import pytest

from sim.experiment import Setup, simulate
from sim.faults import WorkerDies
from sim.outcome import Outcome
from sim.programs import SHAPES, mix
from sim.programs.laws import Scale
from sim.router import NAMES
from sim.trace import Call, Program, Segment

SETUP = Setup("llama3-8b@a100-tp1", num_workers=3, kv_tokens=12_000, block_size=32, direct=True)
SCALE = Scale(context=32, output=16, calls=6, gaps=10)
PROGRAMS = mix(12, 1, 4.0, scales=dict.fromkeys(SHAPES, SCALE))


def _run(router: str, programs: list[Program] = PROGRAMS) -> Outcome:
    return simulate(programs, dataclasses.replace(SETUP, router=router))


def _workers(outcome: Outcome) -> dict[str, set[str]]:
    """Of each program."""
    found: dict[str, set[str]] = {}
    for call in outcome.calls:
        found.setdefault(call.program_id, set()).add(call.worker_id)
    return found


@pytest.mark.parametrize("router", NAMES)
def test_nothing_waits_but_in_engines(router: str) -> None:
    outcome = _run(router)
    assert all(call.placed - call.submitted == pytest.approx(2 * SETUP.network_seconds) for call in outcome.calls)
    assert all(program.completed for program in outcome.programs)


def test_a_session_stays_and_new_ones_go_where_the_fewest_are() -> None:
    homes = _workers(_run("session"))
    assert all(len(workers) == 1 for workers in homes.values())
    assert len({worker for workers in homes.values() for worker in workers}) == 3


def test_round_robin_takes_turns() -> None:
    turns = Counter(call.worker_id for call in _run("round_robin").calls)
    assert max(turns.values()) - min(turns.values()) <= 1


def test_cache_aware_follows_a_prompt_of_which_half_is_cached() -> None:
    def calls(prompt: tuple[int, ...], again: tuple[int, ...]) -> tuple[Call, ...]:
        return Call(0, "a", 0, (), prompt, 4), Call(1, "a", 0, (0,), again, 4, wait_s=5.0)

    segments = (Segment("system", 640), Segment("task", 640), Segment("other", 800))
    stays = Program("stays", "w", segments, calls((0, 1), (0, 1)))
    home = Counter(call.worker_id for call in _run("cache_aware", [stays]).calls)
    assert list(home.values()) == [2]
    # With most of the prompt new it goes to the first of the least loaded, like a call that has nothing anywhere.
    first = Program("first", "w", (Segment("x", 640),), (Call(0, "a", 0, (), (0,), 2000),), arrival_s=0.0)
    moves = dataclasses.replace(Program("moves", "w", segments, calls((0,), (0, 2))), arrival_s=1.0)
    outcome = _run("cache_aware", [first, moves])
    where = {(call.program_id, call.call_id): call.worker_id for call in outcome.calls}
    assert where["first", 0] == "w0"
    assert where["moves", 0] == where["moves", 1] == "w1", "the least loaded, by order"


@pytest.mark.parametrize("router", NAMES)
def test_calls_of_a_dead_worker_are_routed_anew(router: str) -> None:
    setup = dataclasses.replace(SETUP, router=router)
    outcome = simulate(PROGRAMS, setup, faults=[WorkerDies(0.3, 0), WorkerDies(0.6, 1, 1.0), WorkerDies(0.7, 2, 1.0)])
    assert all(program.completed for program in outcome.programs)
    assert "w1.1" in {call.worker_id for call in outcome.calls}
    assert len({(call.program_id, call.call_id) for call in outcome.calls}) == len(outcome.calls)
