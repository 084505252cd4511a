"""ThunderAgent (arXiv 2602.13692): pause programs so that the contexts of the others fit."""

from collections.abc import Sequence
from dataclasses import replace

from bench.reproductions import Row
from bench.reproductions.runs import BASELINE, figures, there
from sim import workload
from sim.experiment import Setup
from sim.trace import Program

TITLE = "ThunderAgent: pausing programs"
HEADLINE = (
    "1.5 to 3.6 times the steps a minute at high concurrency; a replication on one A100: mean JCT -53 %, makespan -36"
    " %, hit rate 13.6 % to 77 %, p99 TTFT +242 %."
)
SETTING = (
    "agentcgroup_claude_code (Claude Code on SWE-rebench), so many programs at a time, on one llama3-8b@a100-tp1 "
    "engine with all its KV cache (13 mean contexts); against the engine's own FCFS queue with an LRU prefix cache."
)
DIFFERENCE = (
    "The paper serves models of 235 to 355 B parameters; what counts is how many contexts fit, which concurrency sets"
    " here. Tools take the recorded time whatever runs beside them, so the paper's gains from disk and from tool "
    "preparation are missing."
)
_SETUP = Setup("llama3-8b@a100-tp1", 1, block_size=256)


def measure() -> Sequence[Row]:
    if missing := there(["thunderagent"]):
        return [Row("preset", "-", f"not there: {missing}")]
    rows: list[Row] = []
    programs = _programs(1)
    for concurrency in (6, 24, 40):
        base = figures(programs, replace(_SETUP, **BASELINE), concurrency=concurrency)
        ours = figures(programs, replace(_SETUP, policy="thunderagent"), concurrency=concurrency)
        steps = ours["calls_per_second"] / base["calls_per_second"]
        few = concurrency < 10
        published, holds = ("1 (all fit)", abs(steps - 1) < 0.05) if few else ("1.5-3.6", steps > 1.5)
        rows.append(Row(f"steps a minute, {concurrency} at a time", published, f"{steps:.2f}", holds))
        if not few:
            times = ("jct_mean", "makespan", "ttft_p99")
            jct, makespan, ttft = (ours[name] / base[name] for name in times)
            hits = f"{base['cached_share']:.0%} to {ours['cached_share']:.0%}"
            rows.append(Row("- mean JCT", "0.47", f"{jct:.2f}", jct < 1))
            rows.append(Row("- makespan", "0.64", f"{makespan:.2f}", makespan < 1))
            rows.append(Row("- hit rate", "14% to 77%", hits, ours["cached_share"] > base["cached_share"]))
            rows.append(Row("- p99 TTFT", "3.4", f"{ttft:.2f}"))
    return rows


def _programs(seed: int) -> list[Program]:
    found = workload.load("agentcgroup_claude_code", max_tokens=100_000)
    small = [program for program in found if len(program.calls) <= 50]
    return workload.at_once(small[:90], seed)
