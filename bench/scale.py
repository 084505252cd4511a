"""`make bench-scale`: 2,000 programs at once on 40 simulated workers, in real time, on whatever this machine has.

All programs arrive within a few seconds and each makes a few long calls, so that all are live together and more calls
want to run than the engines' batches hold. It asserts that no call is lost, that the scheduler decides in under 20 ms
at p99 by its own histogram, and that memory stops growing under a steady load. The result goes to bench/results/.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic

import aiohttp
from rich.console import Console

from bench import live, stack
from bench.histogram import Histogram, histogram
from bench.measure import failures, live_programs, queued_calls, summarise
from bench.scale_result import DECISION_METRIC, Result
from bench.stack import Resources
from services.local.spawn import NotReady, Stack
from sim import trace
from sim.programs import mix
from sim.programs.laws import Scale
from sim.trace import Program

MODEL = "tiny-llama"
ARRIVAL_SECONDS = 3.0
LOG_DIR = Path("build/scale")
# Contexts stay short: their text costs the gateway, their length costs a simulated engine nothing that matters here.
# Outputs are long, so that a program outlives the arrival of the others.
SCALES = {
    "react": Scale(context=32, output=2.5, calls=10, gaps=5),
    "map_reduce": Scale(context=2, output=0.6, calls=4, gaps=5),
    "debate": Scale(context=4, output=1.5, calls=2, gaps=5),
    "plan_execute": Scale(context=8, output=1, calls=8, gaps=5),
}


def main() -> None:
    arguments = _arguments()
    console = Console()
    # A few more, for the shortest have ended when the last arrive.
    programs = mix(
        round(1.03 * arguments.programs), arguments.seed, arguments.programs / ARRIVAL_SECONDS, scales=SCALES
    )
    try:
        result = asyncio.run(_run(arguments, programs, console))
    except NotReady as error:
        sys.exit(f"bench.scale: {error}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    for line in result.lines():
        console.print(line, highlight=False)
    console.print(f"result {arguments.out}")
    if broken := result.broken():
        sys.exit("FAILED: " + "; ".join(broken))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="Many programs on simulated workers")
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--profile", default="llama3-70b@a100-tp4")
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/scale.json"))
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, programs: list[Program], console: Console) -> Result:
    settings = {
        "worker.engine": "simulated",
        "worker.count": arguments.workers,
        "worker.model": MODEL,
        "worker.max_num_seqs": arguments.max_num_seqs,
        # 40 workers on one scheduler: at the default 0.05 s their reports alone take a quarter of its core.
        "worker.report_interval_seconds": 0.2,
        "simulated.profile": arguments.profile,
        "gateway.http_port": 0,
        "gateway.port": 0,
        "telemetry.log_level": "warning",
    }
    console.print(f"starting {arguments.workers} simulated workers")
    async with stack.running(settings, LOG_DIR / "stack.log") as started:
        cpu_before, started_at = sum(os.times()[:2]), monotonic()
        async with _sampling(started) as samples:
            target = live.Target(MODEL, address=started.address, incremental=False)
            done = await live.run(programs, target, "scale", console)
        seconds = monotonic() - started_at
        trace.write(LOG_DIR / "trace.jsonl.gz", done)
        decisions = await _decisions(started)
    return _result(arguments, done, samples, decisions, seconds, sum(os.times()[:2]) - cpu_before)


@asynccontextmanager
async def _sampling(started: Stack, every_seconds: float = 1.0) -> AsyncGenerator[list[tuple[float, Resources]]]:
    """What the stack uses, sampled while inside."""
    samples: list[tuple[float, Resources]] = []
    started_at = monotonic()

    async def sample() -> None:
        while True:
            usage = await asyncio.to_thread(stack.resources, started.process.pid)
            samples.append((monotonic() - started_at, usage))
            await asyncio.sleep(every_seconds)

    async with asyncio.TaskGroup() as tasks:
        sampler = tasks.create_task(sample())
        yield samples
        sampler.cancel()


async def _decisions(started: Stack) -> Histogram:
    url = started.base_url.removesuffix("/v1") + "/metrics"
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return histogram(await response.text(), DECISION_METRIC)


def _result(
    arguments: argparse.Namespace,
    done: list[Program],
    samples: list[tuple[float, Resources]],
    decisions: Histogram,
    seconds: float,
    driver_cpu_seconds: float,
) -> Result:
    calls = [call for program in done for call in program.calls]
    errors = [f"{program.program_id}: {line}" for program in done for line in failures(program)[:1]]
    return Result(
        workers=arguments.workers,
        profile=arguments.profile,
        machine={"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        seconds=seconds,
        programs=len(done),
        wanted_live_programs=arguments.programs,
        peak_live_programs=live_programs(done).peak,
        mean_queued_calls=queued_calls(done).mean,
        calls=len(calls),
        lost_calls=sum(call.measured.llm_s is None for call in calls),
        output_tokens=sum(call.measured.rec_out or 0 for call in calls),
        decisions=decisions.count,
        decision_p50_seconds=decisions.quantile(0.5),
        decision_p99_seconds=decisions.quantile(0.99),
        rss_bytes=[(round(at_s, 1), usage.rss_bytes) for at_s, usage in samples],
        processes=max((usage.processes for _, usage in samples), default=0),
        stack_cpu_seconds=samples[-1][1].cpu_seconds - samples[0][1].cpu_seconds,
        driver_cpu_seconds=driver_cpu_seconds,
        summary=summarise(done),
        first_errors=errors[:5],
    )


if __name__ == "__main__":
    main()
