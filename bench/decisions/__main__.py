"""`python -m bench.decisions`: decisions a second and the worst turns of the scheduler's core, as the cluster grows.

Each size runs in a process of its own, one after the other, on one core. A decision is a call placed; its cost is all
CPU time of the core between two placements: submits, starts, ends, reports of caches and load included. Without the
collector of cyclic garbage: nearly all that it would walk here is the load's own, the blocks of 10,000 prompts.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.decisions.measure import measure_alone

SIZES = (10, 30, 100, 300, 1000)
"""Workers."""
DECISIONS_PER_SECOND, P99_SECONDS = 5000.0, 0.005
"""The goal, at the largest size."""
GROWTH = 1.15
"""Work per decision at the largest size may be so much more than a logarithm through the smaller ones says."""


def main() -> None:
    arguments = _arguments()
    console = Console()
    rows: list[dict[str, Any]] = []
    for num_workers in arguments.sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure_alone, (num_workers, arguments.policy, arguments.decisions)))
        console.print(f"{num_workers} workers: {rows[-1]['decisions_per_second']:.0f} decisions/s", highlight=False)
    result = {"policy": arguments.policy, "machine": _machine(), "rows": rows, "misses": misses(rows)}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".png").write_bytes(_plot(rows))
    console.print(_table(rows))
    for miss in result["misses"]:
        console.print(f"- {miss}", highlight=False)
    if arguments.strict and result["misses"]:
        sys.exit(1)


def misses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the goal the last row does not reach, and whether cost grew faster than log n."""
    last = rows[-1]
    found: list[str] = []
    if last["decisions_per_second"] < DECISIONS_PER_SECOND:
        found.append(f"{last['decisions_per_second']:.0f} decisions/s, not {DECISIONS_PER_SECOND:.0f}")
    if last["turn_p99_seconds"] >= P99_SECONDS:
        found.append(f"p99 {1e3 * last['turn_p99_seconds']:.1f} ms, not under {1e3 * P99_SECONDS:.0f} ms")
    costs = ("looks_per_decision", "seconds_per_decision") if len(rows) > 3 else ()
    grew = [cost for cost in costs if last[cost] > GROWTH * _logarithm(rows[1:-1], cost, last["workers"])]
    return [*found, *(f"{cost} grew faster than log n" for cost in grew)]


def _logarithm(rows: Sequence[Mapping[str, Any]], measured: str, num_workers: int) -> float:
    """There, of the straight line in log n through these, which is not taken to fall."""
    slope, start = np.polyfit([math.log(row["workers"]) for row in rows], [row[measured] for row in rows], 1)
    return float(start + max(0.0, slope) * math.log(num_workers))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    drawn = Table(title="cost of a decision")
    columns = ("workers", "programs", "queued", "decisions/s", "us each", "turn p99 ms", "judged", "looks")
    for name in columns:
        drawn.add_column(name, justify="right")
    for row in rows:
        cells = (row["workers"], row["live_programs"], row["queued_calls"], f"{row['decisions_per_second']:.0f}")
        times = (f"{1e6 * row['seconds_per_decision']:.0f}", f"{1e3 * row['turn_p99_seconds']:.2f}")
        work = (row["judged_per_decision"], row["looks_per_decision"])
        drawn.add_row(*(str(cell) for cell in (*cells, *times, *work)))
    return drawn


def _plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    from bench import plots  # matplotlib takes a second

    return plots.growth(
        [row["workers"] for row in rows],
        {
            "µs of CPU per decision": [1e6 * row["seconds_per_decision"] for row in rows],
            "workers looked at per decision": [row["looks_per_decision"] for row in rows],
        },
        "workers (ten live programs each)",
    )


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description="What a decision costs")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--policy", default="legato")
    parser.add_argument("--decisions", type=int, default=6000)
    parser.add_argument("--strict", action="store_true", help="fail where the goal is missed")
    parser.add_argument("--out", type=Path, default=Path("bench/results/decisions.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
