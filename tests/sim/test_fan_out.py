"""Fan-outs share most of their prompts: they are not to take more room, nor more time, than what they share."""

from statistics import mean
from typing import Any

from sim import workload
from sim.experiment import Setup, simulate

KV_TOKENS = 6_000
"""Of each engine: for one fan-out's prompts if each counts, for several if what they share counts once."""


def completion_seconds(**differs: Any) -> float:
    """Mean over programs."""
    programs = workload.arrivals(workload.generated("map_reduce", 24, 1), 1.0, 1)
    setup = Setup("llama3-8b@a100-tp1", 2, kv_tokens=KV_TOKENS, block_size=16, **differs)
    return mean(program.seconds for program in simulate(programs, setup).programs)


def test_what_a_fan_out_shares_costs_no_more_than_behind_a_plain_router() -> None:
    assert completion_seconds(policy="legato") < 1.1 * completion_seconds(direct=True)
