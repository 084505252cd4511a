"""Simulated pools hear what a workflow service foresees, and bring blocks back from disk if they are told to."""

import dataclasses

import pytest

from sim.experiment import Setup
from sim.outcome import Outcome
from sim.programs import SHAPES, mix
from sim.programs.laws import Scale
from sim.trace import Program
from sim.world import World

SMALL = Setup(
    *("llama3-8b@a100-tp1", 2),
    kv_tokens=4_000,
    block_size=32,
    max_num_seqs=8,
    dram_bytes=128 << 20,
    ssd_bytes=8 << 30,
    workflow="cold",
)
SCALE = Scale(context=32, output=16, calls=6, gaps=10)


def programs() -> list[Program]:
    return mix(12, 1, 4.0, scales=dict.fromkeys(SHAPES, SCALE))


def run(setup: Setup) -> Outcome:
    world = World(setup, programs())
    outcome = world.run(progress=lambda done: world.check())
    world.check()
    return outcome


@pytest.mark.parametrize("chance", [0.0, 0.1])
def test_runs_repeat_and_every_program_is_served(chance: float) -> None:
    setup = dataclasses.replace(SMALL, prefetch_chance=chance)
    outcome = run(setup)
    assert all(program.completed for program in outcome.programs)
    assert outcome.digest == run(setup).digest


def test_what_pools_hear_and_bring_back_makes_a_difference() -> None:
    deaf = dataclasses.replace(SMALL, pool_forecasts=False)
    ahead = dataclasses.replace(SMALL, prefetch_chance=0.1)
    assert len({run(setup).digest for setup in (SMALL, deaf, ahead)}) == 3
