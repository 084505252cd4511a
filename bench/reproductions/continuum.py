"""Continuum / CacheTTL (arXiv 2511.02230): keep a context for a time while its tool runs."""

from collections.abc import Sequence
from dataclasses import replace

from bench.policies import synthetic
from bench.policies.synthetic import SHORT
from bench.reproductions import Row
from bench.reproductions.runs import BASELINE, half_of, over, saturated, there
from sim import workload
from sim.experiment import Setup
from sim.trace import Program

TITLE = "Continuum: a time to live for contexts"
HEADLINE = "1.12 to 3.66 times shorter JCT than vLLM on mini-SWE-agent and BFCL v4, Llama-3.1-8B and 70B."
SETTING = (
    "Agents with mini-SWE's figures (11 turns, contexts that end at about 70,000 tokens, tools of 0.925 s with a "
    "deviation of 3.55 s), Poisson, one llama3-8b@a100-tp1 engine, 3 seeds; against the engine's own FCFS queue with "
    "an LRU cache."
)
DIFFERENCE = (
    "Pins hold at admission, between calls, not against the engine's own eviction of a running batch; there is no "
    "LMCache tier. The public fork uses a fixed TTL of 2 s; the estimator is what is simulated."
)
_SETUP = Setup("llama3-8b@a100-tp1", 1, block_size=256)


def measure() -> Sequence[Row]:
    if missing := there(["continuum"]):
        return [Row("preset", "-", f"not there: {missing}")]
    base = replace(_SETUP, **BASELINE)
    rows: list[Row] = []
    for load in (0.5, 0.9, 1.2):

        def make(seed: int, load: float = load) -> Sequence[Program]:
            # Log-normal with that mean and deviation.
            programs = synthetic.coding(60, seed, gap_seconds=0.233, gap_sigma=1.66, contexts=SHORT)
            return workload.arrivals(programs, load * saturated(programs, _SETUP), seed)

        found = over(make, replace(_SETUP, policy="continuum"), base)
        busy = load > 0.6
        published, holds = ("0.27-0.89", half_of(0.89, found.value)) if busy else ("1", found.value < 1.02)
        rows.append(Row(f"JCT over vLLM's at {load:g} of saturation", published, str(found), holds))
    return rows
