"""Runs with KV pools beside the engines: the pools' cores, loads, saves, pulls and disks in virtual time."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.simulated.cost import load_profile
from sim.experiment import Setup
from sim.faults import Fault, LeaderChanges, WorkerDies
from sim.outcome import Outcome
from sim.programs import SHAPES, mix
from sim.programs.laws import Scale
from sim.trace import Call, Program, Segment
from sim.world import World

NONE = Setup("llama3-8b@a100-tp1", num_workers=2, kv_tokens=6_000, block_size=32, max_num_seqs=8)
POOLS = dataclasses.replace(NONE, dram_bytes=8 << 30)
SCALE = Scale(context=32, output=16, calls=6, gaps=10)


def _programs(count: int = 12, seed: int = 1) -> list[Program]:
    return mix(count, seed, 4.0, scales=dict.fromkeys(SHAPES, SCALE))


def _run(programs: Sequence[Program], setup: Setup, faults: Sequence[Fault] = ()) -> Outcome:
    """A run whose cores are checked whenever a program has ended."""
    world = World(setup, programs, faults=faults)
    outcome = world.run(progress=lambda done: world.check())
    world.check()
    return outcome


def _cached(outcome: Outcome) -> float:
    return sum(call.cached_tokens for call in outcome.calls) / sum(call.prompt_tokens for call in outcome.calls)


def _two_turns(wait_s: float, name: str = "p") -> Program:
    """A prompt of 4,800 tokens that comes again with a little more."""
    first = Call(0, "a", 0, (), (0,), 8)
    return Program(name, "w", (Segment(f"{name} long", 4800), Segment("more", 64)), (first, _again(wait_s)))


def _again(wait_s: float) -> Call:
    return Call(1, "a", 0, (0,), (0, 1), 8, wait_s=wait_s)


def _intruder() -> Program:
    """It takes all of an engine's cache while the other waits."""
    return Program("q", "w", (Segment("other", 5900),), (Call(0, "a", 0, (), (0,), 8),), arrival_s=5.0)


def test_what_left_the_engine_comes_back_from_the_pool_in_the_time_of_a_copy() -> None:
    one = dataclasses.replace(POOLS, num_workers=1)
    again = {c.program_id + str(c.call_id): c for c in _run([_two_turns(20.0), _intruder()], one).calls}["p1"]
    without = dataclasses.replace(one, dram_bytes=0)
    computed = {c.program_id + str(c.call_id): c for c in _run([_two_turns(20.0), _intruder()], without).calls}["p1"]
    assert (again.cached_tokens, computed.cached_tokens) == (4800, 64)
    profile = load_profile(one.profile)
    copy = 4800 * profile.kv_bytes_per_token / profile.pcie_bytes_per_second
    prefill = profile.step_seconds(1, 64, 0, 64 * 4800 + 64**2 / 2)
    assert again.first_token - again.submitted == pytest.approx(4 * one.network_seconds + copy + prefill, rel=0.05)
    assert computed.first_token - computed.submitted > 5 * (again.first_token - again.submitted)


def test_a_pool_that_is_too_small_keeps_less() -> None:
    # Every other program comes back after one other, which the engine alone forgets it for. Behind a plain router, so
    # that no policy makes up for it.
    waits = [3.0, 20.0] * 3
    programs = [dataclasses.replace(_two_turns(wait, f"p{n}"), arrival_s=2.0 * n) for n, wait in enumerate(waits)]
    setup = dataclasses.replace(NONE, num_workers=1, direct=True)
    shares = [_cached(_run(programs, dataclasses.replace(setup, dram_bytes=size << 20))) for size in (0, 1500, 8000)]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize(("ssd_bytes", "found"), [(0, False), (8 << 30, True)])
def test_a_disk_keeps_what_memory_does_not(ssd_bytes: int, found: bool) -> None:
    # Memory holds one of the two prompts, the disk both.
    setup = dataclasses.replace(POOLS, num_workers=1, dram_bytes=900 << 20, ssd_bytes=ssd_bytes, retention="lru")
    late = Call(1, "a", 0, (0,), (0,), 8, wait_s=60.0)
    intruder = dataclasses.replace(_intruder(), calls=(*_intruder().calls, late))
    calls = {(call.program_id, call.call_id): call for call in _run([_two_turns(20.0), intruder], setup).calls}
    assert (calls["p", 1].cached_tokens == 4800) == found


def test_a_program_whose_worker_is_gone_goes_on_with_what_another_hosts_pool_has() -> None:
    home = int(_run([_two_turns(20.0)], POOLS).calls[0].worker_id.removeprefix("w"))
    outcome = _run([_two_turns(20.0)], POOLS, [WorkerDies(10.0, home)])
    assert outcome.calls[1].worker_id != f"w{home}"
    assert outcome.pools[1 - home].num_pulled == 4800 // 32
    assert outcome.calls[1].cached_tokens == 4800


def test_runs_with_pools_are_equal_to_the_event() -> None:
    setup = dataclasses.replace(POOLS, ssd_bytes=1 << 30, dram_bytes=1 << 28)
    one, two = (_run(_programs(), setup) for _ in range(2))
    assert (one.digest, one.pools) == (two.digest, two.pools)


def test_pools_serve_engines_behind_a_plain_router() -> None:
    outcome = _run([_two_turns(20.0), _intruder()], dataclasses.replace(POOLS, num_workers=1, direct=True))
    assert outcome.pools[0].num_found > 0
    assert outcome.calls[-1].cached_tokens == 4800


FAULTS = st.lists(
    st.one_of(
        st.builds(WorkerDies, st.floats(0.0, 6.0), st.just(0), st.floats(0.0, 2.0)),
        st.builds(LeaderChanges, st.floats(0.0, 6.0), st.floats(0.001, 1.0)),
    ),
    max_size=3,
)


@settings(max_examples=8)
@given(FAULTS, st.integers(1, 1000), st.sampled_from([1 << 27, 1 << 33]), st.sampled_from([0, 1 << 28]))
def test_whatever_fails_every_call_ends_once(faults: list[Fault], seed: int, dram: int, ssd: int) -> None:
    programs = _programs(4, seed)
    outcome = _run(programs, dataclasses.replace(POOLS, dram_bytes=dram, ssd_bytes=ssd), faults)
    assert len({(call.program_id, call.call_id) for call in outcome.calls}) == len(outcome.calls)
    assert len(outcome.calls) == sum(len(program.calls) for program in programs)
    assert all(program.completed for program in outcome.programs)
