"""`python -m bench.replay TRACE --url http://127.0.0.1:8000/v1`: run a trace file's programs against a live Legato.

Any file of trace schema 1 will do: a run that the demo recorded, or a real workload. Content is made up from the
segments' hashes, so sharing is as recorded; `--scale` shortens long contexts to fit a small model, `--cap-wait` bounds
waits for humans and slow tools. Programs without an arrival time arrive by a Poisson process.
"""

import argparse
import asyncio
import dataclasses
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from bench import live, table
from bench.measure import failures
from sim import trace
from sim.programs.laws import TOOL_SECONDS, tool
from sim.trace import Call, Program, Segment


def main() -> None:
    arguments = _arguments()
    programs = prepare(
        (program for program in trace.read(arguments.trace) if arguments.run in ("", program.run)),
        limit=arguments.limit,
        scale=arguments.scale,
        cap_wait_s=arguments.cap_wait,
        programs_per_second=arguments.rate,
        seed=arguments.seed,
    )
    if not programs:
        sys.exit(f"bench.replay: no programs in {arguments.trace}")
    console = Console()
    target = live.Target(arguments.model, arguments.url, arguments.address)
    done = asyncio.run(live.run(programs, target, "replay", console))
    runs = {"replay": done}
    console.print(table.render(runs))
    for line in table.explain(runs):
        console.print(f"- {line}", highlight=False)
    if arguments.out:
        trace.write(arguments.out, done)
    if any(failures(program) for program in done):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description="Run a trace against a live Legato")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--url", help="OpenAI base URL, ending in /v1")
    parser.add_argument("--address", help="gRPC address, host:port; with both, programs take turns")
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--run", default="", help="only the programs of this recorded run (default: the first run's)")
    parser.add_argument("--limit", type=int, default=0, help="only so many programs; 0: all")
    parser.add_argument("--scale", type=float, default=1.0, help="divide all token counts by this")
    parser.add_argument("--cap-wait", type=float, default=60.0, help="no wait is longer, seconds")
    parser.add_argument("--rate", type=float, default=1.0, help="programs per second, where the trace has no arrivals")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="record the run as a trace file")
    arguments = parser.parse_args()
    if not (arguments.url or arguments.address):
        parser.error("say where: --url, --address or both")
    return arguments


def prepare(
    programs: Iterable[Program],
    *,
    limit: int = 0,
    scale: float = 1.0,
    cap_wait_s: float = 60.0,
    programs_per_second: float = 1.0,
    seed: int = 1,
) -> list[Program]:
    """The programs of the file's first run, ready to drive: scaled, waits capped, each with an arrival from 0 s on."""
    rng = random.Random(f"replay/{seed}")
    chosen: list[Program] = []
    first_run = ""
    drawn_s = 0.0
    for program in programs:
        first_run = program.run if not chosen else first_run
        if program.run != first_run or (limit and len(chosen) == limit):
            break
        arrival_s = drawn_s if program.arrival_s is None else program.arrival_s
        drawn_s += rng.expovariate(programs_per_second)
        calls = tuple(_ready(call, scale, cap_wait_s, rng) for call in program.calls)
        segments = tuple(Segment(item.hash, max(1, round(item.tokens / scale))) for item in program.segments)
        chosen.append(dataclasses.replace(program, arrival_s=arrival_s, calls=calls, segments=segments, run=""))
    first_s = min((program.arrival_s or 0.0 for program in chosen), default=0.0)
    return [dataclasses.replace(program, arrival_s=(program.arrival_s or 0.0) - first_s) for program in chosen]


def _ready(call: Call, scale: float, cap_wait_s: float, rng: random.Random) -> Call:
    wait_s = call.wait_s
    if wait_s is None and call.gap_s is None and call.wait_kind == "tool":
        wait_s = TOOL_SECONDS[tool(rng)].draw(rng)  # the source knows that a tool ran, not how long
    return dataclasses.replace(
        call,
        output_tokens=max(1, round(call.output_tokens / scale)),
        tool_s=tuple(min(seconds, cap_wait_s) for seconds in call.tool_s),
        wait_s=None if wait_s is None else min(wait_s, cap_wait_s),
        model="",  # the trace names models of its own time
        measured=trace.Measured(),
    )


if __name__ == "__main__":
    main()
