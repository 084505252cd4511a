"""`make demo`: agent programs on a real stack under two policies, and a report that says where time went.

Both runs serve the same programs with the same arrivals. The stack is started afresh for each, so no run finds caches
that another one filled, and warmed with a few calls that share no content with the programs. Engines are vLLM where it
is installed, else simulated. The batch is kept small on purpose (`--max-num-seqs`), as the KV of long contexts keeps it
small on a GPU: what the two policies differ in is who waits, so somebody must.
"""

import argparse
import asyncio
import dataclasses
import importlib.util
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench import live, report, stack, table
from bench.measure import failures, live_programs
from services.local.spawn import NotReady
from sim import trace
from sim.programs import mix
from sim.programs.draft import Draft
from sim.programs.laws import Scale
from sim.trace import Program

POLICIES = ("fcfs", "legato")
MODEL = "tiny-llama"
LEAST_PROGRAMS = 24
_SETTINGS: dict[str, object] = {
    "worker.count": 2,
    "worker.model": MODEL,
    "gateway.http_port": 0,
    "gateway.port": 0,
    # Parsing events took the openai client, on the same two cores as the engines, two thirds of a core.
    "gateway.stream_interval": 8,
}


def main() -> None:
    arguments = _arguments()
    console = Console()
    engine = arguments.engine or _engine(console)
    programs = mix(arguments.programs, arguments.seed, arguments.rate)
    load = os.getloadavg()[0]
    num_calls = sum(len(program.calls) for program in programs)
    console.print(
        f"{len(programs)} programs of four shapes, {num_calls} calls, on 2 {engine} engines; "
        f"half through the openai package, half through the legato SDK"
    )
    try:
        runs = asyncio.run(_runs(arguments, engine, programs, console))
    except NotReady as error:
        sys.exit(f"bench.demo: {error}")
    peak = min(live_programs(run).peak for run in runs.values())
    notes = [
        f"{len(programs)} programs, {num_calls} calls, the same arrivals under each policy; "
        f"at least {peak} programs were live at once in each run.",
        f"Two {engine} engines of at most {arguments.max_num_seqs} sequences, started afresh for each policy: "
        "caches begin cold but for a short warm-up of other content.",
        "One run of each: on a busy machine two runs of the same policy have differed by 20 % and more. "
        "Repeat with another --seed before believing a small difference.",
    ]
    if load > 1:
        notes.append(f"This machine was busy before (load {load:.1f}), so differences of some percent mean nothing.")
    if peak < LEAST_PROGRAMS:
        notes.append(
            f"Fewer than {LEAST_PROGRAMS} programs were live at once: arrivals were too slow for this machine."
        )
    _tell(runs, notes, arguments.out, console)
    if any(failures(program) for run in runs.values() for program in run):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description="Agent programs under two policies")
    parser.add_argument("--programs", type=int, default=48)
    parser.add_argument("--rate", type=float, default=3.0, help="programs that arrive per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("vllm", "simulated"), help="vllm where it is installed")
    parser.add_argument("--max-num-seqs", type=int, default=3, help="most sequences in one engine's batch")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    return parser.parse_args()


def _engine(console: Console) -> str:
    if importlib.util.find_spec("vllm") is not None:
        return "vllm"
    console.print("[bold]vLLM is not installed here: engines are SIMULATED (a cost model in real time).[/bold]")
    return "simulated"


async def _runs(
    arguments: argparse.Namespace, engine: str, programs: Sequence[Program], console: Console
) -> dict[str, list[Program]]:
    runs: dict[str, list[Program]] = {}
    for policy in POLICIES:
        settings = {**_SETTINGS, "scheduler.policy": policy, "worker.engine": engine}
        settings["worker.max_num_seqs"] = arguments.max_num_seqs
        async with stack.running(settings, arguments.out / f"stack-{policy}.log") as started:
            target = live.Target(MODEL, started.base_url, started.address)
            await live.run(_warm_up(), target, "warm-up", console)
            done = await live.run(programs, target, policy, console)
        runs[policy] = [dataclasses.replace(program, run=policy) for program in done]
    return runs


def _warm_up() -> list[Program]:
    """A program for each client, wide enough to reach both engines."""
    programs: list[Program] = []
    for number in range(2):
        draft = Draft(f"warm-up-{number}", "warm-up", Scale(1, 1), random.Random(number))
        for thread in range(8):
            draft.call("warm-up", (draft.own(64), draft.own(64)), 16, thread=thread)
        programs.append(draft.finish())
    return programs


def _tell(runs: Mapping[str, Sequence[Program]], notes: Sequence[str], out: Path, console: Console) -> None:
    trace_file, report_file = out / "trace.jsonl.gz", out / "report.html"
    trace.write(trace_file, (program for programs in runs.values() for program in programs))
    report_file.write_text(report.page(runs, "Legato demo: " + " and ".join(runs), notes), encoding="utf-8")
    console.print(table.render(runs))
    for line in (*notes, *table.explain(runs)):
        console.print(f"- {line}", highlight=False)
    console.print(f"report {report_file}   trace {trace_file} (python -m bench.replay {trace_file})")


if __name__ == "__main__":
    main()
