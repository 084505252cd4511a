"""SAGA (arXiv 2605.00528): session affinity with stealing, and shares by slack."""

from collections.abc import Sequence
from dataclasses import replace

from bench.policies import cell
from bench.policies.workloads import WORKLOADS
from bench.reproductions import Row
from bench.reproductions.runs import BASELINE, half_of, over, there
from sim.trace import Program

TITLE = "SAGA: affinity, stealing and slack"
HEADLINE = (
    "1.64 times faster than vLLM with prefix caching and affinity (SWE-bench 352 to 203 s, WebArena 127 to 82 s). An "
    "independent run of a part of it made every task slower (+34 %)."
)
SETTING = "agentcgroup_claude_code as in the grid (four engines, small caches), at 0.9 and 1.1 of saturation, 3 seeds."
DIFFERENCE = (
    "The public simulator behind the paper's tables prefills 170 times faster than the device it names and adds a "
    "constant stall per miss; neither is copied. Its eviction (WA-LRU) is not in the engine: only order and placement"
    " are simulated."
)


def measure() -> Sequence[Row]:
    if missing := there(["saga"]):
        return [Row("preset", "-", f"not there: {missing}")]
    chosen_workload = WORKLOADS["agentcgroup_claude_code"]
    setup = replace(cell.cluster(chosen_workload), policy="saga")
    rows: list[Row] = []
    for load in (0.9, 1.1):

        def make(seed: int, load: float = load) -> Sequence[Program]:
            return cell.arrived(chosen_workload, load, seed)

        found = over(make, setup, replace(setup, **BASELINE))
        rows.append(Row(f"JCT over vLLM's at {load:g} of saturation", "0.58", str(found), half_of(0.58, found.value)))
    return rows
