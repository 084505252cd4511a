"""`python -m bench.retention`: the cost of each retention policy over the least possible, on recorded programs.

Cost is the engine time to compute the blocks of prompts that were not kept. "Over all" counts what had to be computed
for the first time on both sides, "over avoidable" on neither. `true times` is the density told when each thread comes
back (and belady is told as much); `undeclared` is the density when programs do not say that they end.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.retention import pool
from bench.retention.limit import Limit
from bench.retention.moments import peak_blocks
from bench.retention.sets import SETS, TraceSet, programs
from bench.retention.timeline import Request, requests
from services.kvpool import retention
from services.kvpool.cost import Costs

SHARES = (0.25, 0.5, 0.8)
"""Sizes of the pool, in parts of the working set."""
GOAL, HARD, WORSE = 1.15, 1.3, 1.01
REFERENCES = {"true times": "density", "undeclared": "density"}


@dataclass(frozen=True, slots=True)
class Case:
    """One set at one size."""

    chosen: TraceSet
    timeline: list[Request]
    share: float
    capacity_blocks: int
    limit_seconds: float
    compulsory_seconds: float


def main() -> None:
    arguments = _arguments()
    chosen = [one for one in SETS if not arguments.sets or one.name in arguments.sets.split(",")]
    columns = arguments.policies.split(",") if arguments.policies else [*retention.names(), *REFERENCES]
    rows: list[dict[str, Any]] = []
    console = Console(width=None if sys.stdout.isatty() else 200)  # the table is wide
    with Progress(console=console) as progress:
        task = progress.add_task("retention", total=len(chosen) * len(SHARES) * len(columns))
        for one in chosen:
            for case in cases(arguments.traces, one):
                row = _row(case)
                for column in columns:
                    progress.update(task, description=f"{one.name} {case.share:g} {column}", advance=1)
                    row["policies"][column] = measure(case, column)
                rows.append(row)
    arguments.out.write_text(json.dumps({"goal": GOAL, "rows": rows}, indent=1) + "\n")
    console.print(table(rows, columns))
    for line in verdict(rows):
        console.print(f"- {line}", highlight=False)


def cases(directory: Path, chosen: TraceSet) -> Iterator[Case]:
    """A set at each size that differs; none is smaller than the longest chain."""
    timeline = requests(programs(directory, chosen), chosen.block_tokens)
    limit = Limit(timeline, chosen.block_tokens, Costs())
    peak, longest = peak_blocks(timeline), max(len(request.blocks) for request in timeline)
    sizes = {max(int(share * peak), longest): share for share in reversed(SHARES)}
    for size, share in sorted(sizes.items()):
        yield Case(chosen, timeline, share, size, limit.seconds(size), limit.compulsory_seconds)


def measure(case: Case, column: str) -> dict[str, float]:
    """What a policy costs, and that over the limit's cost."""
    foresight: dict[str, pool.Foresight] = {"belady": "next", "true times": "law"}
    done = pool.run(
        case.timeline,
        case.chosen.block_tokens,
        case.capacity_blocks,
        REFERENCES.get(column, column),
        foresight=foresight.get(column, "none"),
        declared=column != "undeclared",
    )
    least = case.limit_seconds - case.compulsory_seconds
    over_avoidable = (done.recompute_seconds - case.compulsory_seconds) / least if least > 1e-9 else 0.0
    return {
        "recompute_seconds": round(done.recompute_seconds, 3),
        "over_all": round(done.recompute_seconds / case.limit_seconds, 4),
        "over_avoidable": round(over_avoidable, 4),
        "hit_share": round(done.hit_share, 4),
    }


def table(rows: list[dict[str, Any]], columns: list[str]) -> Table:
    """Cost over the limit, over all."""
    drawn = Table(title="cost over the least possible (all misses on both sides)")
    for name in ("set", "calls", "blocks", "of working set", *columns):
        drawn.add_column(name, justify="left" if name == "set" else "right")
    for row in rows:
        costs = [f"{row['policies'][column]['over_all']:.3f}" for column in columns]
        drawn.add_row(row["set"], str(row["calls"]), str(row["capacity_blocks"]), f"{row['share']:g}", *costs)
    return drawn


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """The goal, and where it is missed."""
    lines: list[str] = []
    for row in rows:
        policies = row["policies"]
        if not {"lru", "density"} <= policies.keys():
            continue
        lru, density = policies["lru"]["over_all"], policies["density"]["over_all"]
        where = f"{row['set']} at {row['share']:g} of its working set"
        if lru > HARD and density > GOAL:
            lines.append(f"goal missed: {where}: density {density:.3f}, lru {lru:.3f}")
        if density > lru * WORSE:
            lines.append(f"worse than lru: {where}: density {density:.3f}, lru {lru:.3f}")
    return lines or ["goal reached everywhere"]


def _row(case: Case) -> dict[str, Any]:
    return {
        "set": case.chosen.name,
        "block_tokens": case.chosen.block_tokens,
        "programs": len({request.program_id for request in case.timeline}),
        "calls": len(case.timeline),
        "share": case.share,
        "capacity_blocks": case.capacity_blocks,
        "limit_seconds": round(case.limit_seconds, 3),
        "compulsory_seconds": round(case.compulsory_seconds, 3),
        "policies": {},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.retention", description="Retention policies and their limit")
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--sets", default="", help="names with commas between; default: all")
    parser.add_argument("--policies", default="", help="names with commas between; default: all, and references")
    parser.add_argument("--out", type=Path, default=Path("bench/results/retention.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
