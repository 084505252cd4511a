"""`python -m sim --trace weka_claude_code --policies fcfs,legato --profile llama3-70b@a100-tp4 --workers 10 --load 1.1`

Programs on a simulated cluster under several policies, side by side. `--trace` is a set of ../shared/traces, a trace
file, or a shape of sim/programs ("mix": all of them). Programs arrive by one of: `--rate` (Poisson, programs a second),
`--load` (the same, as a share of what the cluster can do at best), `--recorded` (as they did where they were recorded,
so many times as fast), `--concurrency` (so many at a time, for ever). Policies: see sim/contender.py.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from services.worker.simulated.cost import load_profile, names
from sim import plots, table, tenants, workload
from sim.contender import contender
from sim.experiment import Setup, simulate
from sim.limits import Capacity, Paths, best_prices, demands, saturation
from sim.outcome import Outcome
from sim.programs import SHAPES
from sim.summary import Summary, summarise
from sim.trace import Program

_OTHER_SEEDS = 1000
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def main() -> None:
    arguments = _arguments()
    console = Console()
    setup = Setup(
        arguments.profile,
        arguments.workers,
        kv_tokens=arguments.kv_tokens,
        block_size=arguments.block_size,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        dram_bytes=round(arguments.dram_gib * 2**30),
        ssd_bytes=round(arguments.ssd_gib * 2**30),
        leap_seconds=arguments.leap,
    )
    try:
        contenders = {text: contender(text, setup) for text in arguments.policies}
        summaries, outcomes = _run(arguments, contenders, console)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"sim: {error}")
    console.width = max(console.width, table.width(summaries))
    console.print(table.render(summaries, _title(arguments)))
    if arguments.out:
        paths = [*plots.write(outcomes, arguments.out), _write(arguments, summaries)]
        console.print("written:", *(str(path) for path in paths), highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", default="mix", help="trace set, file or shape (default: mix)")
    parser.add_argument("--limit", type=int, default=0, help="so many programs; 0: all of the set, 200 of a shape")
    parser.add_argument("--policies", type=lambda text: text.split(","), default=["fcfs", "legato"])
    parser.add_argument("--profile", default="llama3-70b@a100-tp4", choices=names(), metavar="PROFILE")
    parser.add_argument("--workers", type=int, default=10)
    arrival = parser.add_mutually_exclusive_group()
    arrival.add_argument("--rate", type=float, help="programs a second")
    arrival.add_argument("--load", type=float, help="share of the cluster's best rate (default: 1.1)")
    arrival.add_argument("--recorded", type=float, metavar="SPEED", help="as recorded, so many times as fast")
    arrival.add_argument("--concurrency", type=int, default=0, help="so many programs at a time")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    parser.add_argument("--kv-tokens", type=int, default=0, help="KV cache of an engine; 0: the profile's")
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--dram-gib", type=float, default=0.0, help="KV pool beside each engine; 0: none")
    parser.add_argument("--ssd-gib", type=float, default=0.0, help="its disk tier; 0: none")
    parser.add_argument("--leap", type=float, default=1.0, help="seconds of an engine taken at once (README.md)")
    parser.add_argument("--max-tokens", type=int, default=0, help="no programs with longer calls; 0: what engines hold")
    parser.add_argument("--divide-context", type=float, default=1.0, help="prompts shorter by this")
    parser.add_argument("--divide-output", type=float, default=1.0, help="outputs shorter by this")
    parser.add_argument("--divide-gaps", type=float, default=1.0, help="waits shorter by this")
    parser.add_argument("--history", type=int, default=0, help="so many other programs were seen by +forecasts before")
    parser.add_argument("--tenants", type=int, default=0, help="so many, by the envelopes of tenants_servegen")
    parser.add_argument("--out", type=Path, help="directory for plots and results.json")
    return parser.parse_args()


def _programs(arguments: argparse.Namespace, limit: int, seed: int) -> list[Program]:
    if arguments.trace in (*SHAPES, "mix"):
        programs = workload.generated(arguments.trace, limit or 200, seed)
    else:
        held = arguments.kv_tokens or load_profile(arguments.profile).kv_tokens
        most = arguments.max_tokens or int(held * arguments.divide_context) - arguments.block_size
        programs = workload.load(arguments.trace, limit, seed, max_tokens=most)
    divided = (arguments.divide_context, arguments.divide_output, arguments.divide_gaps)
    return workload.scaled(programs, context=divided[0], output=divided[1], gaps=divided[2])


def _history(arguments: argparse.Namespace, programs: Sequence[Program], seed: int) -> list[Program]:
    """Other programs of the same trace or shape, as many as there are up to what was asked for."""
    own = {program.program_id.split("#")[0] for program in programs}
    limit = arguments.history if arguments.trace in (*SHAPES, "mix") else 0
    others = [each for each in _programs(arguments, limit, _OTHER_SEEDS + seed) if each.program_id not in own]
    return others[: arguments.history]


def _arriving(
    arguments: argparse.Namespace, programs: Sequence[Program], cluster: Capacity, seed: int
) -> list[Program]:
    if arguments.concurrency:
        return workload.at_once(programs, seed)
    if arguments.recorded:
        return workload.recorded(programs, arguments.recorded, seed)
    rate = arguments.rate
    if rate is None:
        asked = demands(programs)
        paths = [Paths(program, demand, cluster) for program, demand in zip(programs, asked, strict=True)]
        best = saturation(asked, paths, best_prices(asked, cluster)).programs_per_second
        rate = best * (arguments.load or 1.1)
    if arguments.tenants:
        return tenants.arrivals(programs, rate, seed, count=arguments.tenants)
    return workload.arrivals(programs, rate, seed)


def _run(
    arguments: argparse.Namespace, contenders: dict[str, Setup], console: Console
) -> tuple[dict[str, list[Summary]], dict[str, list[Outcome]]]:
    """Every contender with every seed."""
    summaries: dict[str, list[Summary]] = {name: [] for name in contenders}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contenders}
    cluster = _capacity(arguments)
    with Progress(*_COLUMNS, TimeRemainingColumn(), console=console) as bar:
        for seed in arguments.seeds:
            programs = _arriving(arguments, _programs(arguments, arguments.limit, seed), cluster, seed)
            critical = _critical_paths(programs, cluster)
            history = _history(arguments, programs, seed) if arguments.history else ()
            for name, chosen in contenders.items():
                seen = bool(history and chosen.workflow)
                setup = dataclasses.replace(chosen, workflow="warm", history=history) if seen else chosen
                task = bar.add_task(f"{name}, seed {seed}", total=len(programs))
                outcome = simulate(
                    programs,
                    setup,
                    seed=seed,
                    concurrency=arguments.concurrency,
                    progress=lambda done, _, task=task: bar.update(task, completed=done),
                )
                outcomes[name].append(outcome)
                summaries[name].append(summarise(outcome, critical))
    return summaries, outcomes


def _capacity(arguments: argparse.Namespace) -> Capacity:
    profile = load_profile(arguments.profile)
    sizes = (arguments.max_num_seqs, arguments.max_num_batched_tokens)
    return Capacity(profile, arguments.workers, arguments.kv_tokens or profile.kv_tokens, *sizes)


def _critical_paths(programs: Sequence[Program], cluster: Capacity) -> dict[str, float]:
    paths = (Paths(program, demand, cluster) for program, demand in zip(programs, demands(programs), strict=True))
    return {program.program_id: path.critical_path for program, path in zip(programs, paths, strict=True)}


def _title(arguments: argparse.Namespace) -> str:
    return f"{arguments.trace} on {arguments.workers} x {arguments.profile}, seeds {arguments.seeds}"


def _write(arguments: argparse.Namespace, summaries: dict[str, list[Summary]]) -> Path:
    path: Path = arguments.out / "results.json"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    runs = {name: [dataclasses.asdict(summary) for summary in found] for name, found in summaries.items()}
    path.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
