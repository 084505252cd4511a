"""`make bench-failover`: how long callers wait when a worker, the leading scheduler or a gateway dies.

Real etcd and Redis, two gateways, a scheduler and its standby, four simulated workers, each a process of its own; the
caller is the SDK. Every round starts streams, kills one process with SIGKILL, and compares each stream's text with
what the engine had to say; the next round begins when the process that was started again is back.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import legato
from bench import cluster
from bench.chaos.reference import Reference
from bench.cluster import Cluster
from bench.failover.result import HEADINGS, Finding, broken, rows
from bench.failover.rounds import FAULTS, NUM_WORKERS
from bench.failover.streams import Streams

MODEL, MODEL_PATH, MAX_MODEL_LEN = "tiny-llama", Path("models/tiny-llama"), 2048
LOG_DIR = Path("build/failover")
COUNTS = {"scheduler": 2, "workflow": 1, "worker": NUM_WORKERS, "gateway": 2}


def main() -> None:
    arguments = _arguments()
    console = Console()
    findings = asyncio.run(_run(arguments, console))
    result = {
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()},
        "streams": arguments.streams,
        "tokens": arguments.tokens,
        "profile": arguments.profile,
        "lease_seconds": arguments.lease,
        "findings": [{**asdict(finding), "p50": finding.p50, "p99": finding.p99} for finding in findings],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = Table(*HEADINGS)
    for row in rows(findings):
        table.add_row(*row)
    console.print(table)
    for finding in findings:
        console.print(f"{finding.service}: {finding.what}")
    console.print(f"result {arguments.out}")
    if lines := broken(findings):
        sys.exit("FAILED: " + "; ".join(lines[:10]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description="How long callers wait for failover")
    parser.add_argument("--rounds", type=int, default=20, help="of each fault")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--profile", default="llama3-70b@a100-tp4")
    parser.add_argument("--lease", type=int, default=5, help="seconds of silence after which a service is gone")
    parser.add_argument("--out", type=Path, default=Path("bench/results/failover.json"))
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, console: Console) -> Sequence[Finding]:
    settings = {
        "registry.lease_seconds": arguments.lease,
        "worker.engine": "simulated",
        "worker.model": MODEL,
        "worker.model_path": str(MODEL_PATH),
        "worker.max_model_len": MAX_MODEL_LEN,
        "simulated.profile": arguments.profile,
        "telemetry.log_level": "warning",
        "telemetry.log_format": "text",
    }
    console.print("starting the cluster")
    async with cluster.running(COUNTS, settings, LOG_DIR) as started:
        await started.announced("worker", NUM_WORKERS)
        await started.candidates(2)
        await started.announced("gateway", 2)
        async with legato.Client(",".join(started.gateways.values())) as client:
            await client.models()
            return [await _finding(started, client, fault, arguments, console) for fault in arguments.faults]


async def _finding(
    started: Cluster, client: legato.Client, service: str, arguments: argparse.Namespace, console: Console
) -> Finding:
    fault, what = FAULTS[service]
    finding = Finding(service, what)
    reference = Reference(MODEL, MODEL_PATH, MAX_MODEL_LEN)
    for number in range(arguments.rounds):
        name = f"{service}-{number}"
        streams = Streams(client, reference, name, arguments.streams, arguments.tokens)
        waits = await fault(started, client, streams, number)
        finding.rounds += 1
        finding.seconds += waits.resumed
        finding.longest.append(waits.longest)
        finding.wrong += streams.wrong()
        seconds = " ".join(f"{wait:.2f}" for wait in sorted(waits.resumed))
        console.print(f"{name}: {seconds}; longest silence {waits.longest:.2f}", highlight=False)
    return finding


if __name__ == "__main__":
    main()
