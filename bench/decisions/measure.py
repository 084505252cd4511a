"""Measures one size of cluster."""

import gc
from typing import Any

from bench.decisions.crowd import PROGRAMS_PER_WORKER, Crowd


def measure(num_workers: int, policy: str, num_decisions: int) -> dict[str, Any]:
    """One size, after as many decisions as it takes to fill the cluster."""
    crowd = Crowd(num_workers, policy=policy)
    crowd.run(2 * PROGRAMS_PER_WORKER * num_workers)
    dispatch, queue = crowd.watch.core.dispatch, crowd.watch.core.queue
    judged, looks = dispatch.num_judged, dispatch.num_looks
    crowd.run(max(num_decisions, PROGRAMS_PER_WORKER * num_workers))
    turns, decisions = sorted(crowd.watch.seconds), crowd.watch.num_decisions
    return {
        "workers": num_workers,
        "live_programs": len(crowd.watch.core.programs),
        "queued_calls": len(queue),
        "decisions": decisions,
        "decisions_per_second": round(decisions / sum(turns), 1),
        "seconds_per_decision": sum(turns) / decisions,
        "turns_per_decision": round(len(turns) / decisions, 3),
        "turn_p50_seconds": turns[len(turns) // 2],
        "turn_p99_seconds": turns[int(0.99 * len(turns))],
        "turn_max_seconds": turns[-1],
        "judged_per_decision": round((dispatch.num_judged - judged) / decisions, 3),
        "looks_per_decision": round((dispatch.num_looks - looks) / decisions, 3),
    }


def measure_alone(num_workers: int, policy: str, num_decisions: int) -> dict[str, Any]:
    """The same, in a process that does nothing else."""
    gc.disable()
    return measure(num_workers, policy, num_decisions)
