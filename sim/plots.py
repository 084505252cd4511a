"""Plots of runs: distributions of completion times and first tokens, and calls that wait, over time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as _Figure

from sim.outcome import CallResult, Outcome

Figure: Any = _Figure  # matplotlib's stubs leave most argument types unknown
Axes = Any

Runs = Mapping[str, Sequence[Outcome]]
"""By contender, one run for each seed."""


def write(runs: Runs, directory: Path) -> list[Path]:
    """The files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    drawings = {"jct": _jct, "ttft": _ttft, "waiting": _waiting}
    return [_draw(directory / f"{name}.png", runs, draw) for name, draw in drawings.items()]


def _draw(path: Path, runs: Runs, draw: Callable[[Axes, Runs], None]) -> Path:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    draw(axes, runs)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _jct(axes: Axes, runs: Runs) -> None:
    for name, outcomes in runs.items():
        _share(axes, name, [program.seconds for outcome in outcomes for program in outcome.programs])
    axes.set(xlabel="completion time of a program, s", ylabel="share of programs", xscale="log")


def _ttft(axes: Axes, runs: Runs) -> None:
    for name, outcomes in runs.items():
        _share(axes, name, [call.first_token - call.submitted for outcome in outcomes for call in outcome.calls])
    axes.set(xlabel="time to first token, s", ylabel="share of calls", xscale="log")


def _waiting(axes: Axes, runs: Runs) -> None:
    for name, outcomes in runs.items():
        times, counts = without_token(outcomes[0].calls)
        axes.step(times, counts, where="post", label=name, linewidth=0.8)
    axes.set(xlabel="time, s", ylabel="calls without a first token (first seed)")


def without_token(calls: Sequence[CallResult]) -> tuple[list[float], list[int]]:
    """How many calls have been made and have no token yet, from each of these times on."""
    changes = sorted([(call.submitted, 1) for call in calls] + [(call.first_token, -1) for call in calls])
    counts = np.cumsum([change for _, change in changes])
    return [time for time, _ in changes], [int(count) for count in counts]


def _share(axes: Axes, name: str, values: Sequence[float]) -> None:
    axes.step(np.sort(values), np.arange(1, len(values) + 1) / max(1, len(values)), where="post", label=name)
