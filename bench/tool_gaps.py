"""`python -m bench.tool_gaps`: what a KV pool makes of the gaps between a thread's calls, with and without forecasts.

Hosts with a pool of DRAM and disk, under the policy `legato`, at several seeds. A pool keeps what its own laws of
return say, or what a workflow service foretells that has seen other programs of the kind; and it brings blocks back
from disk only when the scheduler places the call, or ahead of its return. Needs ../shared/traces.
"""

import argparse
import itertools
import statistics
from dataclasses import replace

from bench.policies import cell, workloads
from bench.policies.workloads import Workload
from sim.experiment import Setup, simulate
from sim.outcome import Outcome

_GIB = 2**30
_VARIANTS = tuple(itertools.product((False, True), (0.0, 0.1, 0.5)))
"""Forecasts; the chance at which blocks are there before their thread, 0: they come when it is placed."""


def _workload(name: str, cap_wait_seconds: float, programs: int) -> Workload:
    known = workloads.WORKLOADS[name]
    return replace(known, cap_wait_seconds=cap_wait_seconds, programs=min(programs, known.programs))


def _figures(outcome: Outcome) -> tuple[float, float, float, float]:
    jct = statistics.fmean(program.seconds for program in outcome.programs)
    first = sorted(call.first_token - call.submitted for call in outcome.calls)
    prompts = sum(call.prompt_tokens for call in outcome.calls)
    cached = sum(call.cached_tokens for call in outcome.calls)
    return jct, statistics.fmean(first), first[int(0.99 * len(first))], (prompts - cached) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tool_gaps", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sets", nargs="*", default=["weka_claude_code", "coding_heavy_gaps"])
    parser.add_argument("--load", type=float, default=0.9, help="of saturation")
    parser.add_argument("--dram-gib", type=float, default=32.0, help="of each host's pool")
    parser.add_argument("--ssd-gib", type=float, default=512.0)
    parser.add_argument("--cap-wait", type=float, default=600.0, help="longest wait between two calls")
    parser.add_argument("--programs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("| set | seed | forecasts | prefetch | mean JCT, s | mean TTFT, s | p99 TTFT, s | computed, k tokens |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.sets:
        chosen = _workload(name, arguments.cap_wait, arguments.programs)
        for seed in range(1, arguments.seeds + 1):
            some = cell.arrived(chosen, arguments.load, seed)
            base: Setup = replace(
                cell.cluster(chosen),
                dram_bytes=round(arguments.dram_gib * _GIB),
                ssd_bytes=round(arguments.ssd_gib * _GIB),
                workflow="warm",
                history=workloads.history(chosen, some, seed),
            )
            for forecasts, chance in _VARIANTS:
                outcome = simulate(some, replace(base, pool_forecasts=forecasts, prefetch_chance=chance), seed=seed)
                jct, mean, tail, computed = _figures(outcome)
                print(
                    f"| {name} | {seed} | {'yes' if forecasts else 'no'} | {chance or 'off'} "
                    f"| {jct:.1f} | {mean:.2f} | {tail:.1f} | {computed:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
