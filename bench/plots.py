"""The report's plots, each as PNG bytes.

The only module that touches matplotlib.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as _Figure
from matplotlib.patches import Patch as _Patch

from bench.measure import KINDS, by_shape, critical_path, failures, jct_s, queued_calls
from sim.trace import Program

Figure: Any = _Figure  # matplotlib's stubs leave most argument types unknown
Patch: Any = _Patch

Runs = Mapping[str, Sequence[Program]]
COLOURS = {"queue": "#d95f02", "prefill": "#7570b3", "decode": "#1b9e77", "tool": "#bdbdbd", "other": "#e7298a"}
RUN_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")


def jct_cdf(runs: Runs) -> bytes:
    """Share of programs completed within a time."""
    figure = Figure(figsize=(7, 3.6))
    axes = figure.subplots()
    for (name, programs), colour in zip(runs.items(), RUN_COLOURS, strict=False):
        jcts = sorted(jct_s(program) for program in programs if not failures(program))
        axes.step(jcts, np.arange(1, len(jcts) + 1) / max(1, len(jcts)), where="post", label=name, color=colour)
    axes.set(xlabel="JCT, s", ylabel="share of programs", ylim=(0, 1.02))
    axes.legend()
    return _png(figure)


def shape_bars(runs: Runs) -> bytes:
    """Mean JCT per shape, stacked by where the time went, one bar for each run."""
    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots()
    summaries = {name: by_shape(programs) for name, programs in runs.items()}
    shapes = list(next(iter(summaries.values())))
    width = 0.8 / len(summaries)
    for number, (name, shape_summaries) in enumerate(summaries.items()):
        places = np.arange(len(shapes)) + (number - (len(summaries) - 1) / 2) * width
        bottom = np.zeros(len(shapes))
        for kind in KINDS:
            heights = np.array([shape_summaries[shape].parts[kind] for shape in shapes])
            label = kind if number == 0 else None
            axes.bar(places, heights, width * 0.92, bottom=bottom, color=COLOURS[kind], label=label)
            bottom += heights
        for place, height in zip(places, bottom, strict=True):
            axes.text(place, height, name, ha="center", va="bottom", fontsize=6, rotation=20)
    axes.set(ylabel="mean JCT, s", xticks=np.arange(len(shapes)), xticklabels=shapes)
    axes.legend(ncols=len(KINDS), fontsize=8)
    axes.margins(y=0.15)
    return _png(figure)


def timeline(programs: Sequence[Program]) -> bytes:
    """Every program of one run as a row, coloured by what it was waiting for or doing on its critical path."""
    done = [program for program in programs if not failures(program)]
    figure = Figure(figsize=(11, 1.2 + 0.2 * len(done)))
    axes = figure.subplots()
    for row, program in enumerate(done):
        for kind in KINDS:
            spans = [span for span in critical_path(program) if span.kind == kind]
            bars = [((program.arrival_s or 0.0) + span.start_s, span.seconds) for span in spans]
            axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=COLOURS[kind])
    axes.set(xlabel="s since the start of the run", yticks=range(len(done)))
    axes.set_yticklabels([program.program_id for program in done], fontsize=6)
    axes.invert_yaxis()
    axes.legend(handles=[Patch(color=COLOURS[kind], label=kind) for kind in KINDS], fontsize=8)
    return _png(figure)


def queue_length(runs: Runs) -> bytes:
    """Calls waiting for an engine over time."""
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    for (name, programs), colour in zip(runs.items(), RUN_COLOURS, strict=False):
        queue = queued_calls(programs)
        axes.step(queue.times_s, queue.counts, where="post", label=name, color=colour, linewidth=0.9)
    axes.set(xlabel="s since the start of the run", ylabel="calls queued")
    axes.legend()
    return _png(figure)


def growth(sizes: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> bytes:
    """Measures over sizes on a logarithmic axis, where a straight line is log n; one panel each."""
    figure = Figure(figsize=(4.2 * len(series), 3.2))
    for number, (name, values) in enumerate(series.items(), 1):
        axes = figure.add_subplot(1, len(series), number)
        axes.plot(sizes, values, marker="o", color=RUN_COLOURS[number - 1])
        axes.set(xscale="log", xlabel=label, title=name, ylim=(0, 1.25 * max(values)))
    figure.tight_layout()
    return _png(figure)


def _png(figure: Any) -> bytes:
    output = io.BytesIO()
    figure.savefig(output, format="png", dpi=110, bbox_inches="tight")
    return output.getvalue()
