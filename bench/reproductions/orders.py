"""Papers whose idea is an order of calls, all on one mix of workloads, against FCFS with the same placement."""

from collections.abc import Sequence
from dataclasses import replace

from bench.policies import cell
from bench.policies.workloads import WORKLOADS
from bench.reproductions import Row
from bench.reproductions.runs import half_of, over, there
from sim.trace import Program

TITLE = "Orders: Kairos, Hermes, LLMSched, Justitia, HexGen-Flow, VTC, llm-d LAS"
HEADLINE = (
    "Each reports less time than FCFS or than an engine without program order, in settings of its own: Kairos -18 to "
    "-28 %, Hermes -70 %, LLMSched -14 to -79 %, Justitia about -60 %."
)
SETTING = (
    "The grid's customer service agents (tau2_sierra) at 1.5 of saturation, where some 13 calls wait under FCFS, 3 "
    "seeds; mean JCT over that of FCFS in the same scheduler with the same placement and admission, but for Kairos and"
    " HexGen-Flow, which bring a placement that does not look at caches."
)
DIFFERENCE = (
    "None is in its own setting: models, workloads and baselines of the papers differ from each other. Orders act at "
    "the boundaries of calls only. HexGen-Flow and VTC do not aim at the mean: one meets deadlines, the other is "
    "fair."
)
_CLAIMS = {
    "kairos": ("0.72-0.82", 0.82),
    "hermes": ("0.30", 0.30),
    "llmsched": ("0.21-0.86", 0.86),
    "justitia": ("0.40", 0.40),
    "hexgen": ("-", 0.0),
    "vtc": ("-", 0.0),
    "llmd_las": ("-", 0.0),
}


def measure() -> Sequence[Row]:
    chosen = WORKLOADS["tau2_sierra"]
    setup = replace(cell.cluster(chosen), policy="fcfs")

    def make(seed: int) -> Sequence[Program]:
        return cell.arrived(chosen, 1.5, seed)

    rows: list[Row] = []
    for name, (claimed, most) in _CLAIMS.items():
        if there([name]):
            rows.append(Row(name, claimed, "not there"))
            continue
        found = over(make, replace(setup, policy=name), setup)
        rows.append(Row(f"{name}: JCT / FCFS", claimed, str(found), half_of(most, found.value) if most else None))
    return rows
