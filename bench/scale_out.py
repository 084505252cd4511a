"""`make bench-scale-out`: how throughput grows with the nodes, and what a call costs beside its engine.

A node is one process with four simulated workers; gateways, scheduler, workflow service, etcd and Redis are processes
of their own. At each size so many programs for each node are live all the time, each followed by the next. Engines run
at a fraction of real time (`--speed`), so that ten nodes' calls, whose texts are real, fit what this machine's cores
do beside them: programs, workers, batches and queues have the size that they say, calls come 1/speed times slower.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from bench import cluster, sdk_client, stack
from bench.cluster import Cluster
from bench.drive import Client, drive
from bench.histogram import Histogram, histogram
from bench.measure import failures
from bench.scale import MODEL, SCALES
from bench.scale_out_load import Heard, Listening
from bench.scale_out_result import HEADINGS, Counts, Size, broken, rows
from bench.scale_result import DECISION_METRIC
from sim.programs import mix

WORKERS_PER_NODE = 4
NUM_GATEWAYS = 2
PREPARE_METRIC = "legato_gateway_prepare_seconds"
LOG_DIR = Path("build/scale-out")
_SPREAD = 0.5
"""Share of the run-in within which all programs begin."""


def main() -> None:
    arguments = _arguments()
    console = Console()
    sizes: list[Size] = []
    for nodes in arguments.nodes:
        sizes.append(asyncio.run(_size(arguments, nodes, console)))
        result = {
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()},
            **{
                name: getattr(arguments, name) for name in ("programs", "speed", "profile", "run_in", "seconds", "seed")
            },
            "sizes": [asdict(size) for size in sizes],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = Table(*HEADINGS)
    for row in rows(sizes):
        table.add_row(*row)
    console.print(table)
    console.print(f"engines at {arguments.speed:g} of real time; result {arguments.out}")
    if lines := broken(sizes):
        sys.exit("FAILED: " + "; ".join(lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale_out", description="The same load per node, more nodes")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--programs", type=int, default=400, help="live at once, for each node")
    parser.add_argument("--speed", type=float, default=0.25, help="of the engines, in real time's")
    parser.add_argument("--profile", default="llama3-70b@a100-tp4")
    parser.add_argument("--run-in", type=float, default=60.0, help="seconds before the measurement: two calls' length")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the measurement")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/scale_out.json"))
    return parser.parse_args()


async def _size(arguments: argparse.Namespace, nodes: int, console: Console) -> Size:
    counts = {"scheduler": 1, "workflow": 1, "worker": nodes, "gateway": NUM_GATEWAYS}
    settings = {
        "worker.engine": "simulated",
        "worker.count": WORKERS_PER_NODE,
        "worker.model": MODEL,
        "worker.max_num_seqs": 32,
        "worker.report_interval_seconds": 0.2,  # as in bench.scale
        "simulated.profile": arguments.profile,
        "simulated.speed": arguments.speed,
        "telemetry.log_level": "warning",
    }
    console.print(f"{nodes} nodes: starting")
    async with cluster.running(counts, settings, LOG_DIR / str(nodes)) as started, AsyncExitStack() as clients:
        await started.announced("worker", nodes * WORKERS_PER_NODE)
        await started.announced("gateway", NUM_GATEWAYS)
        doors = [
            await clients.enter_async_context(sdk_client.connect(address, MODEL, incremental=False))
            for address in started.gateways.values()
        ]
        async with _load(arguments, nodes * arguments.programs, doors) as heard:
            await asyncio.sleep(arguments.run_in)
            heard.calls.clear()
            before = await _counts(started)
            await asyncio.sleep(arguments.seconds)
            after, calls = await _counts(started), list(heard.calls)
            errors = list(heard.errors)
    size = Size.of(nodes, nodes * arguments.programs, after.since(before), calls, errors)
    console.print(f"{nodes} nodes: {size.tokens_per_second:.0f} tokens/s, {size.calls_per_second:.1f} calls/s")
    return size


@asynccontextmanager
async def _load(arguments: argparse.Namespace, live: int, doors: Sequence[Client]) -> AsyncGenerator[Heard]:
    """So many programs at once, while inside; those that still run then are given up."""
    heard = Heard()
    clients = [Listening(door, heard) for door in doors]
    programs = mix(live, arguments.seed, 1.0, scales=SCALES)
    spread_s = _SPREAD * arguments.run_in

    async def slot(index: int) -> None:
        await asyncio.sleep(spread_s * index / live)
        for turn in count():
            program = programs[(index + turn) % live]
            name = f"{program.program_id}-{index}-{turn}"
            renamed = dataclasses.replace(program, program_id=name, arrival_s=0.0)
            (done,) = await drive((renamed,), (clients[index % len(clients)],))
            heard.errors += failures(done)[:1]

    async with asyncio.TaskGroup() as tasks:
        slots = [tasks.create_task(slot(index)) for index in range(live)]
        yield heard
        for task in slots:
            task.cancel()


async def _counts(started: Cluster) -> Counts:
    """What the services have counted and used so far."""
    decisions = await _histogram(started, "scheduler", DECISION_METRIC)
    prepared = await _histogram(started, "gateway", PREPARE_METRIC)
    cpu_seconds = {"driver": sum(os.times()[:2])}
    for name, pid in started.pids.items():
        service = name.partition("-")[0]
        cpu_seconds[service] = cpu_seconds.get(service, 0.0) + stack.resources(pid).cpu_seconds
    return Counts(asyncio.get_running_loop().time(), decisions, prepared, cpu_seconds)


async def _histogram(started: Cluster, service: str, name: str) -> Histogram:
    """Of all processes of the service together."""
    texts: list[str] = []
    async with aiohttp.ClientSession() as client:
        for process, port in started.metrics_ports.items():
            if process.startswith(service):
                async with client.get(f"http://{started.host}:{port}/metrics") as response:
                    texts.append(await response.text())
    buckets: Counter[float] = Counter()
    for text in texts:
        buckets.update(histogram(text, name).buckets)
    return Histogram(buckets)


if __name__ == "__main__":
    main()
