"""The readable page of a grid's results: what was asked, what came out, which goals fail and why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.policies.comparison import Ratio
from bench.policies.contestants import BASELINE, OURS
from bench.policies.grid import BUSY
from bench.policies.verdict import Figures, Goal, Verdict
from bench.policies.workloads import WORKLOADS
from bench.policies.worth import worth

Runs = Mapping[tuple[str, float], Mapping[str, Sequence[Figures]]]
"""By workload and load: by contestant: of each seed."""
Reached = Mapping[tuple[str, str], float]
"""By workload and contestant: the best rate of a closed loop over saturation."""


def page(
    verdicts: Sequence[Verdict], runs: Runs, facts: Mapping[str, Any], plots: Sequence[str], reached: Reached
) -> str:
    """Markdown. `plots`: names of files beside it."""
    lines = ["# Policies against the limits", "", *_preface(facts), "", *_summary(verdicts), ""]
    lines += [f"![{name}]({name})" for name in plots]
    for load in sorted({verdict.load for verdict in verdicts}, reverse=True):
        some = [verdict for verdict in verdicts if verdict.load == load]
        lines += ["", f"## At {load:g} of saturation", "", *_table(some, runs)]
    lines += ["", "## What forecasts are worth", "", *worth(runs)]
    lines += ["", "## Goals that are not met", "", *_failing(verdicts)]
    lines += ["", "## All policies", "", *_everyone(verdicts), "", *_workloads(verdicts, runs, reached), ""]
    return "\n".join(lines)


def _preface(facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"`{facts['command']}`, code {facts['code']}, {facts['cells']} simulations, {facts['seeds']} seeds. Ratios are "
        "geometric means over seeds with 95 % intervals (paired: same programs, same arrivals). The baseline is an "
        "engine's own FCFS queue with an LRU prefix cache behind a router that keeps programs where they are. A load "
        "is a rate of arrivals over the rate at which the cluster is just busy if it does as well as it can "
        "(`sim/limits/saturation.py`); the limit is what no scheduler can beat (`sim/limits/bounds.py`); clairvoyant "
        "ones know every length and wait. All programs of a run count, the first and last ones too."
    )
    if facts["missing"]:
        yield f"\nNot run or failed: {', '.join(facts['missing'])}."


def _summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    kinds: dict[str, list[Goal]] = {}
    null = [verdict for verdict in verdicts if verdict.null]
    for verdict in verdicts:
        for goal in [] if verdict.null else verdict.goals:
            name = goal.text.split(" (")[0].split(" <=")[0]
            name = "mean JCT / best clairvoyant" if "clairvoyant" in goal.text else name
            kinds.setdefault(name, []).append(goal)
    yield "| goal | cells that meet it |"
    yield "|---|---|"
    for name, goals in kinds.items():
        yield f"| {name} | {sum(goal.met for goal in goals)} of {len(goals)} |"
    if null:
        yield f"\n{len(null)} busy cells are null (no queue, or caches not full) and claim nothing."


def _table(verdicts: Sequence[Verdict], runs: Runs) -> Iterator[str]:
    yield (
        "| workload | JCT / baseline | best published | JCT / it | JCT / clairvoyant | limit / baseline | p99 TTFT / "
        "baseline | Jain, ours (baseline) | calls waiting, ours (baseline) | reuse lost, ours (baseline) | |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for verdict in verdicts:
        figures = runs[verdict.workload, verdict.load]
        ours, base = figures[OURS], figures[BASELINE]
        ratios, mine = verdict.ratios, verdict.ratios[OURS]
        rival, seer = ratios.get(verdict.best_published), ratios.get(verdict.best_clairvoyant)
        ttft = _mean(ours, "ttft_p99") / _mean(base, "ttft_p99")
        yield " | ".join(
            (
                f"| {verdict.workload}",
                _marked(str(mine), verdict, "mean JCT / baseline"),
                verdict.best_published or "-",
                _marked(_divided(mine, rival), verdict, "mean JCT / best"),
                _marked(_divided(mine, seer), verdict, "clairvoyant"),
                f"{verdict.limit.value:.2f}" if verdict.limit else "-",
                _marked(f"{ttft:.2f}", verdict, "p99 TTFT"),
                _marked(f"{_mean(ours, 'jain'):.2f} ({_mean(base, 'jain'):.2f})", verdict, "Jain"),
                f"{_mean(ours, 'queue'):.1f} ({_mean(base, 'queue'):.1f})",
                f"{_mean(ours, 'lost_reuse'):.0%} ({_mean(base, 'lost_reuse'):.0%})",
                f"{verdict.null} |",
            )
        )


def _divided(one: Ratio, other: Ratio | None) -> str:
    return f"{one.value / other.value:.2f}" if other else "-"


def _marked(text: str, verdict: Verdict, about: str) -> str:
    """Bold, if the goal about it is not met."""
    return f"**{text}**" if any(about in goal.text for goal in verdict.failing) else text


def _failing(verdicts: Sequence[Verdict]) -> Iterator[str]:
    failing = [(verdict, goal) for verdict in verdicts for goal in verdict.failing]
    if not failing:
        yield "None."
        return
    yield "| workload | load | goal | value | reason |"
    yield "|---|---|---|---|---|"
    for verdict, goal in failing:
        yield f"| {verdict.workload} | {verdict.load:g} | {goal.text} | {goal.shown} | {goal.reason} |"


def _everyone(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Mean JCT over the baseline's at the loads where all were run."""
    busy = [verdict for verdict in verdicts if verdict.load > BUSY]
    yield "Mean JCT over the baseline's, by geometric mean over workloads first."
    yield ""
    yield "| policy | all | " + " | ".join(f"{verdict.workload} {verdict.load:g}" for verdict in busy) + " |"
    yield "|---" * (len(busy) + 2) + "|"
    names = {name for verdict in busy for name in verdict.ratios}
    means = {name: _overall(busy, name) for name in names}
    for name in sorted(names, key=lambda name: (means[name] is None, means[name] or 0.0)):
        shown = [f"{verdict.ratios[name].value:.2f}" if name in verdict.ratios else "-" for verdict in busy]
        mean = means[name]
        yield f"| {name} | {f'{mean:.2f}' if mean else '-'} | " + " | ".join(shown) + " |"


def _overall(verdicts: Sequence[Verdict], name: str) -> float | None:
    """None: it was not run everywhere."""
    product = 1.0
    for verdict in verdicts:
        if name not in verdict.ratios:
            return None
        product *= verdict.ratios[name].value
    return product ** (1 / len(verdicts)) if verdicts else None


def _workloads(verdicts: Sequence[Verdict], runs: Runs, reached: Reached) -> Iterator[str]:
    yield "## Workloads"
    yield ""
    yield "| workload | programs | calls | KV tokens an engine | longest call | longest wait, s | closed loop |"
    yield "|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(verdict.workload for verdict in verdicts):
        item = WORKLOADS[name]
        calls = next(figures[BASELINE][0]["calls"] for (workload, _), figures in runs.items() if workload == name)
        longest = item.max_tokens or "any"
        sizes = f"{item.programs} | {calls} | {item.kv_tokens:,} | {longest} | {item.cap_wait_seconds:g}"
        yield f"| {name} | {sizes} | {_rates(name, reached)} |"
    yield ""
    yield (
        f"Four engines of {next(iter(WORKLOADS.values())).profile} each. Closed loop: the best rate that is reached "
        "when programs never run out, over the derived saturation; ours (baseline)."
    )


def _rates(workload: str, reached: Reached) -> str:
    ours, base = (reached.get((workload, name)) for name in (OURS, BASELINE))
    return f"{ours:.2f} ({base:.2f})" if ours is not None and base is not None else "-"


def _mean(figures: Sequence[Figures], name: str) -> float:
    return sum(one[name] for one in figures) / len(figures)
