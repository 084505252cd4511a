"""`make chaos`: faults drawn from a seed over every service of a real cluster, while 200 programs run.

etcd, Redis, two gateways, a scheduler and its standby, workers with simulated engines, KV pools and the workflow
service are processes on three nodes (network namespaces). Fails when an invariant is broken.
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from bench.chaos import faults, network, plan
from bench.chaos.report import Report
from bench.chaos.run import Asked, run


def main() -> None:
    arguments = _arguments()
    console = Console(soft_wrap=True)
    asked = Asked(
        seed=arguments.seed,
        seconds=arguments.seconds,
        num_live=arguments.programs,
        run_in_seconds=arguments.run_in,
        log_dir=arguments.logs,
        kinds=arguments.kinds,
        targets=arguments.targets,
        doors=arguments.doors,
        pause_seconds=arguments.pause,
    )
    if why := network.missing():
        sys.exit(f"bench.chaos: {why}")
    if arguments.plan:
        for one in plan.draw(asked.seed, asked.seconds, asked.kinds, asked.pause_seconds, asked.targets):
            console.print(str(one), highlight=False)
        return
    for old in arguments.logs.glob("*.log"):
        old.unlink()
    report = asyncio.run(_run(asked, console))
    for line in report.lines():
        console.print(line, highlight=False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report.json(), indent=1) + "\n", encoding="utf-8")
    console.print(f"result {arguments.out}, logs in {arguments.logs}")
    if report.broken:
        sys.exit("FAILED: " + "; ".join(one.what for one in report.broken))


async def _run(asked: Asked, console: Console) -> Report:
    """SIGTERM ends it as SIGINT does under `asyncio.run`: everything healed, nothing left behind."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(asked, lambda line: console.print(line, highlight=False))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Faults over every service")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of faults")
    parser.add_argument("--programs", type=int, default=200, help="at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-in", type=float, default=30.0, help="seconds without faults, before them")
    parser.add_argument("--pause", type=float, default=plan.MEAN_PAUSE_SECONDS, help="mean seconds between faults")
    parser.add_argument("--kinds", nargs="+", default=faults.names(), choices=faults.names(), metavar="KIND")
    parser.add_argument("--targets", default="", help="only services and nodes whose names begin so")
    parser.add_argument("--doors", nargs="+", default=["sdk", "http", "sdk"], choices=("sdk", "http"), metavar="DOOR")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    parser.add_argument("--logs", type=Path, default=Path("build/chaos"), help="folder; logs in it are removed first")
    parser.add_argument("--out", type=Path, default=Path("bench/results/chaos.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
