"""Runs beside one another, as a terminal table: a column each, means over seeds with 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats as _stats  # pyright: ignore[reportMissingTypeStubs] there are none

from sim.summary import Summary

stats: Any = _stats

Runs = Mapping[str, Sequence[Summary]]

_ROWS: dict[str, tuple[str, str, float]] = {
    "jct_mean": ("JCT mean, s", ".1f", 1),
    "jct_p50": ("JCT p50, s", ".1f", 1),
    "jct_p95": ("JCT p95, s", ".1f", 1),
    "jct_p99": ("JCT p99, s", ".1f", 1),
    "ttft_mean": ("TTFT mean, s", ".2f", 1),
    "ttft_p99": ("TTFT p99, s", ".2f", 1),
    "tpot": ("TPOT, ms", ".1f", 1e3),
    "slowdown": ("JCT / critical path", ".2f", 1),
    "jain": ("Jain of tenants", ".3f", 1),
    "cached_share": ("prompts cached, %", ".1f", 100),
    "queue": ("calls waiting", ".1f", 1),
    "kv_usage": ("KV in use, %", ".1f", 100),
    "kv_peak": ("KV in use, peak %", ".1f", 100),
    "busy": ("engines busy, %", ".1f", 100),
    "preemptions": ("preemptions", ".0f", 1),
    "programs_per_hour": ("programs an hour", ".0f", 1),
    "tokens_per_second": ("tokens a second", ".0f", 1),
    "failed": ("programs failed", ".0f", 1),
}


def render(runs: Runs, title: str) -> Table:
    """One column for each contender."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in runs:
        table.add_column(name, justify="right", no_wrap=True)
    for field in fields(Summary):
        label, form, factor = _ROWS[field.name]
        cells = [_cell([factor * getattr(item, field.name) for item in items], form) for items in runs.values()]
        table.add_row(label, *cells)
    return table


def width(runs: Runs) -> int:
    """Characters that the table needs."""
    return 26 + sum(3 + max(len(name), 10 if len(items) == 1 else 20) for name, items in runs.items())


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean (Student); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def _cell(values: Sequence[float], form: str) -> str:
    mean = format(float(np.mean(values)), form)
    return f"{mean} ± {interval(values):{form}}" if len(values) > 1 else mean
