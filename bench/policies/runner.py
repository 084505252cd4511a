"""Runs cells in processes of low priority, and says how far it is."""

import multiprocessing
import os
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.policies import cell as cells
from bench.policies.cell import Cell
from bench.policies.closed import Loop, reached

Results = dict[Cell, dict[str, Any]]
_CELLS_PER_PROCESS = 50
"""Then a new one takes over, so that no process grows."""


def run(todo: Sequence[Cell], num_processes: int) -> Results:
    """What each cell came to. A cell that failed has an `error` instead of figures."""
    results: Results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("policies", total=len(todo))
        for cell, figures in _figures(todo, num_processes):
            results[cell] = figures
            described = f"{cell.workload.name} {cell.load:g} {cell.contestant.name} seed {cell.seed}"
            progress.update(task, description=f"{described:<70}", advance=1)
            if "error" in figures:
                progress.console.print(f"{described}: {figures['error'].splitlines()[-1]}", highlight=False)
    return results


def loops(todo: Sequence[Loop], num_processes: int) -> dict[Loop, float]:
    """What each closed loop reaches, in parts of saturation."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, yielding) as pool:
        return dict(zip(todo, pool.map(reached, todo), strict=True))


def _figures(todo: Sequence[Cell], num_processes: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """As they come."""
    if num_processes <= 1:
        yield from map(_figure, todo)
        return
    # Not an executor: with max_tasks_per_child Python 3.11's stops when a process has had its tasks (cpython 115634).
    with multiprocessing.get_context("spawn").Pool(
        num_processes, yielding, maxtasksperchild=_CELLS_PER_PROCESS
    ) as pool:
        yield from pool.imap_unordered(_figure, todo)


def yielding() -> None:
    """Let others go first."""
    os.nice(10)


def _figure(cell: Cell) -> tuple[Cell, dict[str, Any]]:
    """Measured, and the limit of it."""
    try:
        bound = cells.limits(cell.workload, cell.load, cell.seed)
        return cell, cells.measured(cell) | {"limit": bound.seconds}
    except Exception:  # one cell's bug must not cost the others; it is reported as what it is
        return cell, {"error": traceback.format_exc()}
