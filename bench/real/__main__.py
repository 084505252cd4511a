"""`make bench-real`: the same programs on the same real engines, behind Legato and behind other routers.

All systems are up at once and idle but for the one that is measured; each round runs the same programs on every one of
them, in an order that changes from round to round, so that whatever else the machine does meets all alike. Content
differs between rounds, so no cache knows it. Goals are told, met or not; a run in which no queue formed fails.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from rich.console import Console

import legato
from bench.drive import Board, drive
from bench.openai_client import OpenAIClient
from bench.real import result
from bench.real.result import Run
from bench.real.systems import MODEL, PEERS, WORKER, System, legato_stack, routed
from bench.real.vllm_servers import NotReady
from bench.real.watch import watching
from bench.real.workload import programs
from services.local.spawn import NotReady as StackNotReady
from services.worker import tiny_model
from services.worker.calibrate.calibration import Sizes, calibrate
from services.worker.simulated.cost import Profile
from sim.trace import Program
from sim.workload import TRACES

OURS = "legato"
STACKS: dict[str, dict[str, object]] = {
    OURS: {"scheduler.policy": "legato"},
    "no-forecasts": {"scheduler.policy": "legato", "workflow.enabled": False},
    "fcfs": {"scheduler.policy": "fcfs"},
}
"""Legato's own, by their settings. The workflow service learns from one round to the next."""
ROUTERS = ("vllm-router", "sglang-router")


def main() -> None:
    arguments = _arguments()
    console = Console()
    if set(ROUTERS) & set(arguments.systems) and not PEERS.exists():
        sys.exit("bench.real: the routers are not there; `make peers` installs them")
    if not arguments.traces.is_dir():
        sys.exit(f"bench.real: no traces in {arguments.traces}")
    tiny_model.make(MODEL, tiny_model.WIDE)
    try:
        runs = asyncio.run(_runs(arguments, console))
    except (NotReady, StackNotReady) as error:
        sys.exit(f"bench.real: {error}")
    faults = list(result.broken(runs, OURS))
    table = {} if any(run.failures for run in runs) else result.ratios(runs, OURS)
    whole = {
        "cores": os.cpu_count(),
        "programs": arguments.programs,
        "rounds": arguments.rounds,
        "runs": [asdict(run) for run in runs],
        "ratios": {other: [asdict(ratio) for ratio in found] for other, found in table.items()},
        "broken": faults,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for line in result.lines(runs, table, OURS):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"result {arguments.out}")
    if faults:
        sys.exit("FAILED: " + "; ".join(faults))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.real", description="Legato beside others on real engines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", type=int, default=28)
    parser.add_argument("--rate", type=float, default=4.0, help="programs that arrive per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--systems", nargs="+", choices=(*STACKS, *ROUTERS), default=[*STACKS, *ROUTERS])
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--logs", type=Path, default=Path("build/real"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/real.json"))
    return parser.parse_args()


async def _runs(arguments: argparse.Namespace, console: Console) -> list[Run]:
    async with AsyncExitStack() as stack:
        systems: list[System] = []
        addresses: list[str] = []
        for name, settings in STACKS.items():
            if name in arguments.systems or name == OURS:
                system, address = await stack.enter_async_context(legato_stack(name, settings, arguments.logs))
                systems.append(system)
                addresses.append(address)
        routers = [name for name in ROUTERS if name in arguments.systems]
        if routers:
            # The other router's cost models are to be this machine's too.
            profile = await _profile(addresses[0])
            systems += await stack.enter_async_context(routed(routers, profile, arguments.logs))
        for system in systems:
            first = await _run(system, programs(arguments.traces, 4, 2.0, -arguments.seed), 0)
            if first.failures:
                sys.exit(f"bench.real: {system.name}: {first.failures[0]}")
        runs: list[Run] = []
        for number in range(1, arguments.rounds + 1):
            workload = programs(arguments.traces, arguments.programs, arguments.rate, 100 * arguments.seed + number)
            shift = number % len(systems)
            for system in systems[shift:] + systems[:shift]:
                run = await _run(system, workload, number)
                runs.append(run)
                console.print(
                    f"round {number} {system.name:>14}: {run.seconds:5.1f} s, JCT {run.jct_mean:6.2f} s, "
                    f"TTFT p99 {run.ttft_p99:6.2f} s, cached {run.cached_share:4.0%}, {run.mean_waiting:4.1f} waiting, "
                    f"KV {run.kv_usage:4.0%}{', FAILED' if run.failures else ''}",
                    highlight=False,
                    soft_wrap=True,
                )
        return runs


async def _run(system: System, workload: Sequence[Program], number: int) -> Run:
    board = Board()
    client = OpenAIClient(system.base_url, WORKER.model, system.session_header)
    async with watching(system, board) as watch:
        began = monotonic()
        done = await drive(workload, [client], board)
        return result.run_of(system.name, number, done, watch, monotonic() - began)


async def _profile(address: str) -> Profile:
    """The engines' cost model, from the workers of an idle stack."""
    async with legato.Client(address) as client:
        workers = [worker.address for worker in await client.workers()]
    return (await calibrate(workers, Sizes(num_steps=24, repeats=2))).profile


if __name__ == "__main__":
    main()
