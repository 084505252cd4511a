"""Paired runs, what their ratios say, and whether the runs were what they were meant to be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from bench.measure import failures, summarise
from bench.real.watch import Watch
from bench.statistics import describe
from sim.table import interval
from sim.trace import Program

METRICS = ("jct_mean", "jct_p95", "ttft_mean", "ttft_p99")
_COLUMNS = (
    ("system", 14, "system", ""),
    ("JCT mean s", 10, "jct_mean", ".2f"),
    ("JCT p95 s", 9, "jct_p95", ".2f"),
    ("TTFT mean s", 11, "ttft_mean", ".2f"),
    ("TTFT p99 s", 10, "ttft_p99", ".2f"),
    ("cached", 7, "cached_share", ".0%"),
    ("waiting", 8, "mean_waiting", ".1f"),
    ("KV bound", 9, "bound_share", ".0%"),
)
_LEAST_WAITING = 2.0
_LEAST_BOUND = 0.5
_LEAST_EVICTED = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """One system, one round."""

    system: str
    round: int
    seconds: float
    jct_mean: float
    jct_p95: float
    ttft_mean: float
    ttft_p99: float
    cached_share: float
    reusable_share: float
    """Cached share in a cache that forgets nothing."""
    mean_waiting: float
    bound_share: float
    kv_usage: float
    failures: list[str]


def run_of(system: str, number: int, done: Sequence[Program], watch: Watch, seconds: float) -> Run:
    """What a run of programs says."""
    summary = summarise(done)
    first = [call.measured.ttft_s or 0.0 for program in done for call in program.calls]
    return Run(
        system,
        number,
        seconds,
        summary.jct_mean,
        summary.jct_p95,
        float(np.mean(first)),
        summary.ttft_p99,
        summary.cached_share,
        describe(done).own,
        watch.mean_waiting,
        watch.bound_share,
        watch.kv_usage,
        [f"{program.program_id}: {line}" for program in done for line in failures(program)[:1]],
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of paired runs: the geometric mean of one system's figure over another's, with its 95 % interval (Student)."""

    metric: str
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(runs: Sequence[Run], metric: str, system: str, other: str) -> Ratio:
    """`system` over `other`, round by round."""
    figures: dict[tuple[str, int], float] = {(run.system, run.round): getattr(run, metric) for run in runs}
    rounds = sorted({run.round for run in runs})
    logs = [log(figures[system, number] / figures[other, number]) for number in rounds]
    mean = float(np.mean(logs))
    half = interval(logs) if len(logs) > 1 else float("inf")
    return Ratio(metric, exp(mean), exp(mean - half), exp(mean + half))


def ratios(runs: Sequence[Run], system: str) -> dict[str, list[Ratio]]:
    """`system` over each of the others."""
    others = dict.fromkeys(run.system for run in runs if run.system != system)
    return {other: [ratio(runs, metric, system, other) for metric in METRICS] for other in others}


def broken(runs: Sequence[Run], bounded: str) -> Iterator[str]:
    """Why the runs say nothing: programs failed, nobody waited, or there was KV memory enough.

    `bounded`: the system whose admission may keep KV from filling, so that only its queue is asked for.
    """
    for run in runs:
        where = f"{run.system}, round {run.round}"
        if run.failures:
            yield f"{where}: {run.failures[0]}"
        if run.mean_waiting < _LEAST_WAITING:
            yield f"{where}: {run.mean_waiting:.1f} calls waited on average, at least {_LEAST_WAITING:g} should"
        if run.system == bounded:
            continue
        if run.bound_share < _LEAST_BOUND:
            yield f"{where}: KV memory was the limit {run.bound_share:.0%} of the time, not {_LEAST_BOUND:.0%}"
        if run.reusable_share - run.cached_share < _LEAST_EVICTED:
            yield f"{where}: caches lost nothing that was needed again, so their size did not matter"


def lines(runs: Sequence[Run], table: Mapping[str, Sequence[Ratio]], system: str) -> Iterator[str]:
    """For people."""
    yield " ".join(f"{title:>{width}}" for title, width, _, _ in _COLUMNS)
    for name in dict.fromkeys(run.system for run in runs):
        own = [run for run in runs if run.system == name]
        cells = [f"{name:>14}"]
        for _, width, field, form in _COLUMNS[1:]:
            cells.append(f"{float(np.mean([getattr(run, field) for run in own])):{width}{form}}")
        yield " ".join(cells)
    for other, found in table.items():
        yield f"{system} over {other}: " + "   ".join(f"{ratio.metric} {ratio}" for ratio in found)
