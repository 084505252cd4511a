"""Whole runs: clients, gateway, scheduler's core and engines' cores on one virtual clock."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.simulated.cost import load_profile
from sim.experiment import Setup, simulate
from sim.faults import Fault, LeaderChanges, WorkerDies, WorkerSlows
from sim.outcome import CallResult, Outcome
from sim.programs import mix
from sim.programs.laws import Scale
from sim.trace import Call, Program, Segment
from sim.world import World

SMALL = Setup("llama3-8b@a100-tp1", num_workers=2, kv_tokens=12_000, block_size=32, max_num_seqs=8)
SCALE = Scale(context=32, output=16, calls=6, gaps=10)


def _programs(count: int = 12, seed: int = 1) -> list[Program]:
    return mix(count, seed, 4.0, scales=dict.fromkeys(("react", "map_reduce", "debate", "plan_execute"), SCALE))


def _run(programs: Sequence[Program], setup: Setup = SMALL, faults: Sequence[Fault] = ()) -> Outcome:
    """A run whose cores are checked whenever a program has ended."""
    world = World(setup, programs, faults=faults)
    outcome = world.run(progress=lambda done: world.check())
    world.check()
    return outcome


def _by_key(outcome: Outcome) -> dict[tuple[str, int], CallResult]:
    calls = {(call.program_id, call.call_id): call for call in outcome.calls}
    assert len(calls) == len(outcome.calls)
    return calls


def _one_call(prompt_tokens: int, output_tokens: int) -> Program:
    return Program("p", "w", (Segment("s", prompt_tokens),), (Call(0, "a", 0, (), (0,), output_tokens),))


def test_equal_runs_are_equal_to_the_event() -> None:
    faults = [WorkerDies(1.0, 0, 1.0), LeaderChanges(2.0, 0.5)]
    one, two = (_run(_programs(), faults=faults) for _ in range(2))
    assert one.digest == two.digest
    assert (one.programs, one.calls, one.engines) == (two.programs, two.calls, two.engines)
    assert _run(_programs(seed=2), faults=faults).digest != one.digest


def test_every_call_ends_once_and_its_times_are_in_order() -> None:
    programs = _programs()
    outcome = _run(programs)
    calls = _by_key(outcome)
    assert calls.keys() == {(program.program_id, call.id) for program in programs for call in program.calls}
    assert all(call.submitted < call.placed < call.first_token <= call.end for call in calls.values())
    assert all(program.completed for program in outcome.programs)
    assert {program.program_id for program in outcome.programs} == {program.program_id for program in programs}
    assert sum(call.output_tokens for call in calls.values()) == sum(e.generated_tokens for e in outcome.engines)


def test_calls_are_issued_when_parents_have_ended_and_waits_are_over() -> None:
    programs = _programs()
    calls = _by_key(_run(programs))
    for program in programs:
        for call in program.calls:
            mine = calls[program.program_id, call.id]
            parents = [program.calls[parent] for parent in call.parents]
            ended = max((calls[program.program_id, parent.id].end for parent in parents), default=program.arrival_s)
            tools = max((max(parent.tool_s, default=0.0) for parent in parents), default=0.0)
            assert ended is not None
            assert mine.submitted == pytest.approx(ended + max(call.wait_s or 0.0, tools))


def test_recorded_gaps_count_from_the_parents_issue() -> None:
    parent = Call(0, "a", 0, (), (0,), 10)
    child = Call(1, "a", 0, (0,), (0,), 10, gap_s=50.0)
    [first, second] = simulate([Program("p", "w", (Segment("s", 100),), (parent, child))], SMALL).calls
    assert second.submitted == pytest.approx(first.submitted + 50.0)


def test_a_call_alone_takes_what_the_profile_and_the_network_say() -> None:
    profile = load_profile(SMALL.profile)
    [call] = simulate([_one_call(1000, 3)], dataclasses.replace(SMALL, network_seconds=0.01)).calls
    prefill = profile.step_seconds(1, 1000, 0, 1000**2 / 2)
    decode = sum(profile.step_seconds(1, 1, context, 0.0) for context in (1001, 1002))
    assert call.first_token - call.submitted == pytest.approx(4 * 0.01 + prefill)
    assert call.end - call.first_token == pytest.approx(decode)


def test_a_prompt_finds_what_its_program_sent_and_got_before() -> None:
    segments = (Segment("system", 320), Segment("answer", 64), Segment("question", 100))
    first = Call(0, "a", 0, (), (0,), 64, output=(1,))
    second = Call(1, "a", 0, (0,), (0, 1, 2), 10)
    [one, two] = simulate([Program("p", "w", segments, (first, second))], SMALL).calls
    assert one.cached_tokens == 0
    assert two.cached_tokens == 352, "but for the last generated token, whose KV is not there, so not its block's"


def test_an_output_that_comes_back_without_its_reasoning_is_computed_again() -> None:
    segments = (Segment("system", 320), Segment("answer", 64), Segment("question", 100))
    first = Call(0, "a", 0, (), (0,), 200, output=(1,))
    second = Call(1, "a", 0, (0,), (0, 1, 2), 10)
    [_, two] = simulate([Program("p", "w", segments, (first, second))], SMALL).calls
    assert two.cached_tokens == 320


def test_a_call_that_no_engine_holds_fails_its_program_alone() -> None:
    large = dataclasses.replace(_one_call(20_000, 10), program_id="large")
    outcome = _run([large, dataclasses.replace(_one_call(1000, 10), program_id="small")])
    assert {program.program_id: program.completed for program in outcome.programs} == {"large": False, "small": True}
    assert {call.error for call in outcome.calls} == {"", "CONTEXT_LENGTH_EXCEEDED"}


def test_a_closed_loop_holds_so_many_programs_at_a_time() -> None:
    programs = [dataclasses.replace(program, arrival_s=0.0) for program in _programs()]
    outcome = simulate(programs, SMALL, concurrency=3)
    times = [(program.arrival, 1) for program in outcome.programs] + [(p.end, -1) for p in outcome.programs]
    live, peak = 0, 0
    for _, change in sorted(times):
        live += change
        peak = max(peak, live)
    assert peak == 3
    assert len(outcome.programs) == len(programs)


def test_programs_are_taken_as_they_arrive() -> None:
    taken: list[str] = []

    def stream() -> Iterator[Program]:
        for program in _programs():
            taken.append(program.program_id)
            yield program

    ahead: list[int] = []
    outcome = World(SMALL, stream(), concurrency=2).run(progress=lambda done: ahead.append(len(taken) - done))
    assert len(outcome.programs) == len(taken) == 12
    assert max(ahead) <= 2


def test_busy_seconds_and_kv_usage_are_shares_of_the_run() -> None:
    outcome = _run(_programs())
    for engine in outcome.engines:
        assert 0 < engine.busy_seconds <= outcome.virtual_seconds + 1e-6
        assert 0 < engine.kv_usage <= engine.kv_usage_peak <= 1


def test_a_slow_worker_makes_programs_wait() -> None:
    programs = _programs()
    slow = _run(programs, faults=[WorkerSlows(0.0, 0, 10.0), WorkerSlows(0.0, 1, 10.0)])
    assert sum(p.seconds for p in slow.programs) > 2 * sum(p.seconds for p in _run(programs).programs)
    healed = _run(programs, faults=[WorkerSlows(0.0, 0, 10.0, 1.0), WorkerSlows(0.0, 1, 10.0, 1.0)])
    assert sum(p.seconds for p in healed.programs) < sum(p.seconds for p in slow.programs)


def test_calls_of_a_dead_worker_go_on_elsewhere() -> None:
    longest = max((c for c in _run(_programs()).calls if c.worker_id == "w0"), key=lambda c: c.end - c.placed)
    outcome = _run(_programs(), faults=[WorkerDies((longest.first_token + longest.end) / 2, 0)])
    restarted = [call for call in outcome.calls if call.attempts > 1]
    assert restarted
    assert {call.worker_id for call in restarted} == {"w1"}
    assert all(program.completed for program in outcome.programs)


def test_a_worker_that_comes_back_gets_calls() -> None:
    outcome = _run(_programs(), faults=[WorkerDies(0.5, 0, 0.5)])
    assert Counter(call.worker_id for call in outcome.calls)["w0.1"] > 0


def test_calls_outlive_a_change_of_leader() -> None:
    outcome = _run(_programs(), faults=[LeaderChanges(1.0, 0.5)])
    assert all(program.completed for program in outcome.programs)
    assert not any(1.0 < call.placed < 1.5 for call in outcome.calls), "nobody places while nobody leads"
    assert any(call.submitted < 1.0 < call.end for call in outcome.calls)


FAULTS = st.lists(
    st.one_of(
        st.builds(WorkerDies, st.floats(0.0, 6.0), st.just(0), st.floats(0.0, 2.0)),
        st.builds(WorkerSlows, st.floats(0.0, 6.0), st.integers(0, 1), st.floats(0.2, 5.0), st.floats(0.1, 2.0)),
        st.builds(LeaderChanges, st.floats(0.0, 6.0), st.floats(0.001, 1.0)),
    ),
    max_size=5,
)


@settings(max_examples=12)
@given(FAULTS, st.integers(1, 1000), st.sampled_from(["fcfs", "legato"]))
def test_whatever_fails_every_call_ends_once(faults: list[Fault], seed: int, policy: str) -> None:
    programs = _programs(4, seed)
    outcome = _run(programs, dataclasses.replace(SMALL, policy=policy), faults)
    assert len(_by_key(outcome)) == sum(len(program.calls) for program in programs)
    assert all(program.completed for program in outcome.programs)
