"""Orderings in simulation: the shape of Autellix's comparison (arXiv 2502.13965, figure 10) on conversations as it
replays them, scaled down to a small batch."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

import pytest

from services.worker.preemption import Preemption
from sim import workload
from sim.experiment import Setup, simulate

MLFQ: Mapping[str, Any] = {
    "policy": "mlfq",
    "scheduler": {"ordering": "mlfq", "ordering_params": {"num_queues": 1.0}, "lookahead_calls": 1000},
    "preemption": Preemption(margin=1, min_tokens=32, quanta=(64, 128, 256, 512, 1024)),
}
"""All calls wait in the engine, which knows of programs nothing."""


def latency(**policy: Any) -> float:
    """Mean over programs of seconds for each token that they generate."""
    programs = workload.arrivals(workload.generated("sharegpt", 250, 1), 1.0, 1)
    tokens = {program.program_id: sum(call.output_tokens for call in program.calls) for program in programs}
    outcome = simulate(programs, Setup("llama3-8b@a100-tp1", 1, max_num_seqs=16, **policy))
    assert len(outcome.programs) == len(programs)
    return mean(program.seconds / tokens[program.program_id] for program in outcome.programs)


@pytest.mark.timeout(120)
def test_srpt_plas_mlfq_fcfs_in_this_order() -> None:
    srpt, plas = latency(policy="srpt", oracle=True), latency(policy="plas")
    mlfq, fcfs = latency(**MLFQ), latency(policy="fcfs")
    assert 1.1 * srpt < plas
    assert 1.1 * plas < mlfq
    assert 1.1 * mlfq < fcfs
