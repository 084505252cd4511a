"""Mooncake (FAST'25): four schedulers on its own trace."""

from collections.abc import Sequence
from dataclasses import replace

from bench.reproductions import Row
from bench.reproductions.runs import figures, saturated, there
from sim import workload
from sim.experiment import Setup
from sim.trace import Program

TITLE = "Mooncake: where to prefill"
HEADLINE = (
    "Mean TTFT on its conversation trace: random 19.65 s, load balancing 5.27 s, local cache 3.58 s, global cache "
    "3.07 s."
)
SETTING = (
    "The first 1,200 programs of the public conversation trace as they arrived, at 0.9 of saturation, on ten "
    "llama3-70b@a100-tp4 engines with 100 GB of host memory each; each scheduler is a placement policy."
)
DIFFERENCE = (
    "Engines prefill and decode (the paper separates the two), so waits for decodes are in the TTFT; the paper's 16 "
    "nodes and load are not published as a utilisation."
)
PLACEMENTS = ("random", "least_loaded", "mooncake_local", "mooncake")
_PUBLISHED = {"random": 19.65, "least_loaded": 5.27, "mooncake_local": 3.58, "mooncake": 3.07}
_LOAD = 0.9


def measure() -> Sequence[Row]:
    if missing := there(placements=PLACEMENTS):
        return [Row("placements", "-", f"not there: {missing}")]
    setup = Setup("llama3-70b@a100-tp4", 10, "fcfs", block_size=512, dram_bytes=100_000_000_000)
    programs = _programs(setup)
    first = {name: figures(programs, replace(setup, scheduler={"placement": name}))["ttft_mean"] for name in PLACEMENTS}
    rows = [
        Row(
            f"mean TTFT, {name}",
            f"{_PUBLISHED[name]:.2f} s ({_PUBLISHED[name] / _PUBLISHED['mooncake']:.2f} of global)",
            f"{first[name]:.2f} s ({first[name] / first['mooncake']:.2f})",
        )
        for name in PLACEMENTS
    ]
    order = sorted(PLACEMENTS, key=lambda name: first[name])
    rows.append(Row("order", " < ".join(reversed(PLACEMENTS)), " < ".join(order), order == list(reversed(PLACEMENTS))))
    return rows


def _programs(setup: Setup) -> list[Program]:
    found = workload.load("mooncake_conversation", max_tokens=120_000)[:1200]
    seconds = (found[-1].arrival_s or 0.0) - (found[0].arrival_s or 0.0)
    speed = _LOAD * saturated(found, setup) * seconds / len(found)
    return workload.recorded(found, speed)
