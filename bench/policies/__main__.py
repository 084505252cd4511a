"""`python -m bench.policies`: every policy over recorded workloads at several loads, with intervals, beside the limits.

Writes `bench/results/policies.json` and `policies.md` with their plots, or, for anything less than the whole grid, the
same under `build/policies`. Exits with an error when a simulation failed; goals that are not met are listed with their
reasons. What was simulated before by the same code is not simulated again.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from bench.policies import cache, plots
from bench.policies.cell import Cell
from bench.policies.closed import Loop
from bench.policies.contestants import BASELINE, OURS, Contestant, Kind, contestants
from bench.policies.grid import BUSY, Grid, quick, whole
from bench.policies.page import Reached, page
from bench.policies.runner import Results, loops, run
from bench.policies.verdict import Figures, Verdict, verdict
from bench.policies.workloads import WORKLOADS

RESULTS = cache.ROOT / "bench" / "results"


def main() -> None:
    arguments = _arguments()
    known = contestants()
    grid = _grid(arguments, known)
    todo = list(grid.cells())
    began = time.perf_counter()
    results = run(todo, arguments.processes)
    runs, missing = collected(grid, results)
    kinds: dict[str, Kind] = {name: contestant.kind for name, contestant in known.items()}
    verdicts = [
        verdict(name, load, WORKLOADS[name].heavy_gaps, kinds, figures)
        for (name, load), figures in runs.items()
        if BASELINE in figures and OURS in figures
    ]
    facts = {
        "command": "python -m bench.policies " + " ".join(sys.argv[1:]),
        "code": cache.code_version(),
        "cells": len(todo),
        "seeds": len(grid.seeds),
        "missing": missing,
        "seconds": round(time.perf_counter() - began),
    }
    out: Path = arguments.out or (RESULTS if arguments.whole else cache.FOLDER)
    closed = [Loop(chosen, known[name]) for chosen in grid.workloads for name in (OURS, BASELINE)]
    rates = loops(closed if arguments.whole else [], arguments.processes)
    reached = {(loop.workload.name, loop.contestant.name): rate for loop, rate in rates.items()}
    written = write(out, verdicts, runs, facts, kinds, reached)
    Console().print(Markdown(written.read_text()))
    if any("error" in figures for figures in results.values()):
        sys.exit("some simulations failed")


def collected(grid: Grid, results: Results) -> tuple[dict[tuple[str, float], dict[str, Sequence[Figures]]], list[str]]:
    """Runs by workload and load, of the contestants that ended all their programs on all seeds; and who did not."""
    runs: dict[tuple[str, float], dict[str, Sequence[Figures]]] = {}
    missing: list[str] = []
    for chosen in grid.workloads:
        for load in grid.loads:
            figures = runs.setdefault((chosen.name, load), {})
            for contestant in grid.contestants:
                some = [results.get(Cell(chosen, load, contestant, seed)) for seed in grid.seeds]
                if all(one is not None and "error" not in one and not one["failed"] for one in some):
                    figures[contestant.name] = [one for one in some if one is not None]
                elif any(one is not None for one in some):
                    missing.append(f"{contestant.name} on {chosen.name} at {load:g}")
    return runs, missing


def write(
    out: Path,
    verdicts: Sequence[Verdict],
    runs: dict[tuple[str, float], dict[str, Sequence[Figures]]],
    facts: dict[str, Any],
    kinds: dict[str, Kind],
    reached: Reached,
) -> Path:
    """JSON, plots and page into that folder; the page."""
    out.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, bytes] = {}
    for load in sorted({one.load for one in verdicts if one.load > BUSY}):
        busy = [one for one in verdicts if one.load == load]
        drawn[f"policies-{load:g}.svg"] = plots.by_policy(busy, kinds)
    if verdicts:
        drawn["policies-load.svg"] = plots.by_load(verdicts)
    for name, content in drawn.items():
        (out / name).write_bytes(content)
    (out / "policies.json").write_text(json.dumps(_json(verdicts, runs, facts, reached), indent=1) + "\n")
    written = out / "policies.md"
    written.write_text(page(verdicts, runs, facts, sorted(drawn), reached))
    return written


def _json(
    verdicts: Sequence[Verdict],
    runs: dict[tuple[str, float], dict[str, Sequence[Figures]]],
    facts: dict[str, Any],
    reached: Reached,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for one in verdicts:
        policies = {
            name: {"jct_ratio": [_short(value) for value in (ratio.value, ratio.low, ratio.high)]}
            | {
                figure: _short(sum(run[figure] for run in figures) / len(figures))
                for figure in figures[0]
                if figure not in ("calls", "failed", "cpu_seconds", "limit")
            }
            for name, figures in runs[one.workload, one.load].items()
            for ratio in [one.ratios[name]]
        }
        goals = [
            {"goal": goal.text, "value": _short(goal.value), "shown": goal.shown, "met": goal.met} for goal in one.goals
        ]
        rows.append(
            {"workload": one.workload, "load": one.load, "null": one.null, "goals": goals, "policies": policies}
            | {"best_published": one.best_published, "best_clairvoyant": one.best_clairvoyant}
            | {"limit_over_baseline": _short(one.limit.value) if one.limit else None}
        )
    closed = [{"workload": name, "policy": who, "reached": _short(rate)} for (name, who), rate in reached.items()]
    return {"facts": facts, "rows": rows, "closed_loop": closed}


def _short(value: float) -> float | None:
    """Four digits; what is not known is null."""
    return float(f"{value:.4g}") if value < float("inf") else None


def _grid(arguments: argparse.Namespace, known: dict[str, Contestant]) -> Grid:
    grid = whole(known, arguments.seeds or 5) if arguments.whole else quick(known)
    names = arguments.workloads.split(",") if arguments.workloads else [chosen.name for chosen in grid.workloads]
    policies = arguments.policies.split(",") if arguments.policies else [one.name for one in grid.contestants]
    loads = [float(load) for load in arguments.loads.split(",")] if arguments.loads else grid.loads
    unknown = [*(set(names) - WORKLOADS.keys()), *(set(policies) - known.keys())]
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    wanted = dict.fromkeys((BASELINE, OURS, *policies))  # without these two there is nothing to compare
    seeds = range(1, arguments.seeds + 1) if arguments.seeds else grid.seeds
    return Grid([WORKLOADS[name] for name in names], loads, [known[name] for name in wanted], seeds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="all workloads, loads and policies, 5 seeds (an hour)")
    parser.add_argument("--workloads", default="", help=f"only these, with commas between them: {', '.join(WORKLOADS)}")
    parser.add_argument("--policies", default="", help="only these contestants, beside the baseline and ours")
    parser.add_argument("--loads", default="", help="only these, in parts of saturation")
    parser.add_argument("--seeds", type=int, default=0, help="so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
