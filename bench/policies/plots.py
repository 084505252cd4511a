"""The plots of a grid's results, as small SVG files whose bytes depend on the data alone."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as _Figure

from bench.policies.contestants import BASELINE, OURS, Kind
from bench.policies.verdict import Verdict

Figure: Any = _Figure  # matplotlib's stubs leave most argument types unknown
_style: Any = matplotlib.rc_context  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] its stubs

COLOURS: dict[Kind, str] = {
    "baseline": "#555555",
    "reference": "#999999",
    "published": "#4c78a8",
    "clairvoyant": "#54a24b",
    "ours": "#d62728",
}


def by_policy(verdicts: Sequence[Verdict], kinds: Mapping[str, Kind]) -> bytes:
    """Mean JCT over the baseline's: a panel for each workload, a row for each policy, a mark for the limit."""
    figure = Figure(figsize=(3.1 * min(3, len(verdicts)), 3.4 * -(-len(verdicts) // 3)))
    panels = np.ravel(figure.subplots(-(-len(verdicts) // 3), min(3, len(verdicts)), squeeze=False))
    for axes in panels[len(verdicts) :]:
        axes.axis("off")
    for axes, verdict in zip(panels, verdicts, strict=False):
        names = sorted(verdict.ratios, key=lambda name: -verdict.ratios[name].value)
        for row, name in enumerate(names):
            value = verdict.ratios[name]
            colour = COLOURS[kinds[name]]
            axes.plot([value.low or value.value, min(value.high, 1e3)], [row, row], color=colour, linewidth=1)
            axes.plot(value.value, row, "o", color=colour, markersize=3)
        if verdict.limit is not None:
            axes.axvline(verdict.limit.value, color="black", linestyle=":", linewidth=0.8)
        axes.axvline(1.0, color="#bbbbbb", linewidth=0.6)
        axes.set_yticks(range(len(names)), names, fontsize=5)
        axes.set_xscale("log")
        axes.set_xticks([0.25, 0.5, 1, 2], ["0.25", "0.5", "1", "2"], fontsize=6)
        axes.minorticks_off()
        axes.set_title(f"{verdict.workload}, load {verdict.load:g}{' (null)' if verdict.null else ''}", fontsize=7)
    figure.suptitle("mean JCT over the baseline's; dotted: no policy can be below", fontsize=8)
    figure.tight_layout()
    return _svg(figure)


def by_load(verdicts: Sequence[Verdict]) -> bytes:
    """Mean JCT over the baseline's against the load: ours, the best published, the best clairvoyant, the limit."""
    names = list(dict.fromkeys(verdict.workload for verdict in verdicts))
    figure = Figure(figsize=(3.1 * min(3, len(names)), 2.2 * -(-len(names) // 3)))
    panels = np.ravel(figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False))
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels, names, strict=False):
        some = sorted((verdict for verdict in verdicts if verdict.workload == name), key=lambda verdict: verdict.load)
        loads = [verdict.load for verdict in some]
        lines: list[tuple[str, Kind, list[float]]] = [
            (BASELINE, "baseline", [1.0 for _ in some]),
            (OURS, "ours", [verdict.ratios[OURS].value for verdict in some]),
            ("best published", "published", [_ratio(verdict, verdict.best_published) for verdict in some]),
            ("best clairvoyant", "clairvoyant", [_ratio(verdict, verdict.best_clairvoyant) for verdict in some]),
        ]
        for label, kind, values in lines:
            axes.plot(loads, values, "o-", color=COLOURS[kind], label=label, markersize=3, linewidth=1)
        limits = [verdict.limit.value if verdict.limit else np.nan for verdict in some]
        axes.plot(loads, limits, ":", color="black", label="limit", linewidth=1)
        axes.set_title(name, fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=5)
    figure.suptitle("mean JCT over the baseline's against the load", fontsize=8)
    figure.tight_layout()
    return _svg(figure)


def _ratio(verdict: Verdict, name: str) -> float:
    return verdict.ratios[name].value if name else np.nan


def _svg(figure: Any) -> bytes:
    output = io.BytesIO()
    with _style({"svg.hashsalt": "legato", "svg.fonttype": "none"}):
        figure.savefig(output, format="svg", metadata={"Date": None})
    return output.getvalue()
