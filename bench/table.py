"""The comparison of runs as a terminal table, and the sentences that say why they differ.

Runs are given by name (the ordering policy) in the order in which they ran; the first is what the others are compared
with. Ratios below 1 are better for times, above 1 for the cached share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.measure import KINDS, Summary, by_shape, critical_path, failures, queued_calls, summarise
from sim.trace import Program

Runs = Mapping[str, Sequence[Program]]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one shape: its value in each run and the last one's ratio to the first."""

    metric: str
    values: tuple[str, ...]
    ratio: str


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


_METRICS: tuple[tuple[str, Callable[[Summary], float], Callable[[float], str]], ...] = (
    ("JCT mean", lambda summary: summary.jct_mean, _seconds),
    ("JCT p50", lambda summary: summary.jct_p50, _seconds),
    ("JCT p95", lambda summary: summary.jct_p95, _seconds),
    ("JCT p99", lambda summary: summary.jct_p99, _seconds),
    ("TTFT p50", lambda summary: summary.ttft_p50, _seconds),
    ("TTFT p99", lambda summary: summary.ttft_p99, _seconds),
    *((kind, lambda summary, kind=kind: summary.parts[kind], _seconds) for kind in KINDS),
    ("cached tokens", lambda summary: summary.cached_share, _percent),
)


def rows(runs: Runs) -> dict[str, list[Row]]:
    """Rows by shape, "overall" last."""
    summaries = [by_shape(programs) for programs in runs.values()]
    return {shape: [_row(*metric, [run[shape] for run in summaries]) for metric in _METRICS] for shape in summaries[0]}


def _row(name: str, value: Callable[[Summary], float], show: Callable[[float], str], runs: Sequence[Summary]) -> Row:
    values = [value(run) for run in runs]
    ratio = f"{values[-1] / values[0]:.2f}" if len(values) > 1 and values[0] > 0.005 else ""
    return Row(name, tuple(map(show, values)), ratio)


def render(runs: Runs) -> Table:
    """The table for a terminal."""
    table = Table(title="Seconds; queue to other: mean per program on its critical path", title_justify="left")
    table.add_column("shape")
    table.add_column("metric")
    for name in runs:
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right")
    counts = by_shape(next(iter(runs.values())))
    for shape, lines in rows(runs).items():
        label = f"{shape} ({counts[shape].programs})"
        for number, row in enumerate(lines):
            cells = (label if number == 0 else "", row.metric, *row.values, row.ratio)
            table.add_row(*cells, end_section=number == len(lines) - 1)
    return table


def explain(runs: Runs) -> list[str]:
    """Sentences computed from the runs: what changed, where the time went, whether queues formed, what failed."""
    lines = [_load(name, programs) for name, programs in runs.items()]
    names = list(runs)
    for name in names[1:]:
        lines += _compare(names[0], runs[names[0]], name, runs[name])
    for name, programs in runs.items():
        if failed := [program for program in programs if failures(program)]:
            first = failed[0]
            lines.append(f"{name}: {len(failed)} programs FAILED, first {first.program_id}: {failures(first)[0]}.")
    return lines


def _load(name: str, programs: Sequence[Program]) -> str:
    queue = queued_calls(programs)
    text = (
        f"{name}: {queue.mean:.1f} calls queued on average, {queue.peak} at most, "
        f"some in {_percent(queue.busy_share)} of the time"
    )
    if queue.mean < 1:
        text += "; queues hardly formed, so differences between policies mean little here"
    return text + "."


def _compare(base: str, before: Sequence[Program], name: str, after: Sequence[Program]) -> list[str]:
    old, new = summarise(before), summarise(after)
    if not old.jct_mean or not new.jct_mean:
        return []
    change = {kind: new.parts[kind] - old.parts[kind] for kind in KINDS}
    sign = -1 if new.jct_mean < old.jct_mean else 1
    most = max(KINDS, key=lambda kind: sign * change[kind])
    shares = ", ".join(f"{kind} {_percent(old.parts[kind] / old.jct_mean)}" for kind in KINDS)
    return [
        f"Under {base} a program's time is {shares}.",
        f"{name} changes mean JCT from {old.jct_mean:.2f} s to {new.jct_mean:.2f} s "
        f"({new.jct_mean / old.jct_mean:.2f}x); most of it is {most} time, {change[most]:+.2f} s a program.",
        _winners(before, after),
    ]


def _winners(before: Sequence[Program], after: Sequence[Program]) -> str:
    """Who gains and who pays: the programs halved by the service they need, which is the same under both."""
    service = {
        program.program_id: sum(span.seconds for span in critical_path(program) if span.kind in ("prefill", "decode"))
        for program in before
        if not failures(program)
    }
    order = sorted(service, key=lambda program_id: service[program_id])
    small = set(order[: len(order) // 2])
    ratios: list[str] = []
    for label, members in (("short", small), ("long", set(order) - small)):
        pair = [summarise([program for program in run if program.program_id in members]) for run in (before, after)]
        if pair[0].jct_mean:
            ratios.append(f"{label} half {pair[0].jct_mean:.2f} s to {pair[1].jct_mean:.2f} s")
    return f"By the service they need, mean JCT of the {', of the '.join(ratios)}."
