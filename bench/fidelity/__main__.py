"""`make bench-fidelity`: how far the simulator is from the real stack, and which part of the model is to blame.

The stack is started afresh for each real run, so that no run finds what another one cached or the scheduler learned
from it. The profile comes from the first stack, before its programs run. All that is asserted is that the runs were
what they should be: programs done, calls queued, KV evicted. Goals are told, met or not.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from rich.console import Console

from bench.fidelity import real, report, simulated
from bench.fidelity.cluster import Cluster
from bench.fidelity.comparison import compare
from bench.fidelity.real import Machine
from bench.fidelity.workload import exact, programs
from bench.measure import failures
from services.local.spawn import NotReady
from services.worker import tiny_model
from services.worker.config import WorkerSection
from sim import trace
from sim.trace import Program

_MODEL = Path("build/fidelity/model")


def main() -> None:
    arguments = _arguments()
    console = Console()
    tiny_model.make(_MODEL, arguments.intermediate)
    worker = WorkerSection(
        model_path=str(_MODEL),
        engine=arguments.engine,
        count=2,
        max_model_len=4000,
        max_num_seqs=4,
        max_num_batched_tokens=512,
        kv_cache_bytes=arguments.kv_mib << 20,
    )
    cluster = Cluster(worker, arguments.policy)
    made = programs(arguments.programs, arguments.rate, arguments.seed)
    arguments.logs.mkdir(parents=True, exist_ok=True)
    try:
        machine, runs = asyncio.run(_runs(arguments, cluster, made, console))
    except NotReady as error:
        sys.exit(f"bench.fidelity: {error}")
    profile = arguments.logs / "profile.json"
    profile.write_text(json.dumps({"fidelity": asdict(machine.profile)}) + "\n", encoding="utf-8")
    lengths = exact(made, Path(worker.model_path))
    began = monotonic()
    model = simulated.run(lengths, cluster.setup(profile, machine.network_seconds))
    seconds = monotonic() - began
    if failed := [line for program in model for line in failures(program)]:
        sys.exit(f"bench.fidelity: simulated: {failed[0]}")
    trace.write(arguments.logs / "trace.jsonl.gz", [program for run in (*runs, model) for program in run])
    compared = compare(runs, model)
    blamed = report.blamed(worker, machine, runs, model)
    text = list(report.lines(compared, blamed, machine, runs, seconds))
    broken = list(report.broken(runs, lengths))
    whole = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "figures": [{**asdict(figure), "error": figure.error, "met": figure.met} for figure in compared],
        "causes_of_jct_error_s": blamed,
        "network_seconds": machine.network_seconds,
        "shared_seconds": machine.shared_seconds,
        "profile": asdict(machine.profile),
        "points": [
            {"point": str(sample.point), "ms": 1e3 * sample.seconds, "error": machine.calibration.residual(sample)}
            for sample in machine.calibration.samples
        ],
        "text": text,
        "broken": broken,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for line in text:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"result {arguments.out}")
    if broken:
        sys.exit("FAILED: " + "; ".join(broken))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fidelity", description="The simulator beside the real stack")
    parser.add_argument("--programs", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2, help="programs that arrive per second")
    parser.add_argument("--runs", type=int, default=3, help="real runs, whose difference is what chance does")
    parser.add_argument("--policy", default="legato")
    parser.add_argument("--engine", choices=("vllm", "simulated"), default="vllm", help="of the real stack")
    parser.add_argument(
        "--intermediate", type=int, default=tiny_model.WIDE, help="width of the MLP, which makes steps longer"
    )
    parser.add_argument("--kv-mib", type=int, default=8, help="KV memory of each engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, default=Path("build/fidelity"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/fidelity.json"))
    return parser.parse_args()


async def _runs(
    arguments: argparse.Namespace, cluster: Cluster, made: Sequence[Program], console: Console
) -> tuple[Machine, list[list[Program]]]:
    machines: list[Machine] = []
    runs: list[list[Program]] = []
    for number in range(1, arguments.runs + 1):
        async with real.running(cluster, arguments.logs / f"stack-{number}.log") as started:
            machines.append(await real.measured(started, cluster, console))
            runs.append(await real.run(started, cluster, made, f"run {number}", console))
    return Machine.mean(machines), runs


if __name__ == "__main__":
    main()
