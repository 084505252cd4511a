"""The bench on real engines: ratios of paired runs, and runs that say nothing."""

import dataclasses
from math import inf
from pathlib import Path

import pytest

from bench.real.result import METRICS, Run, broken, lines, ratio, ratios
from bench.real.watch import Look, Watch
from bench.real.workload import programs
from sim import trace
from sim.programs import generate
from sim.programs.laws import Scale

GOOD = Run("fcfs", 1, 30.0, 8.0, 12.0, 1.0, 5.0, 0.4, 0.9, 12.0, 0.8, 0.9, [])


def rounds(*pairs: tuple[float, float]) -> list[Run]:
    made: list[Run] = []
    for number, (ours, theirs) in enumerate(pairs, 1):
        made.append(dataclasses.replace(GOOD, system="legato", round=number, jct_mean=ours))
        made.append(dataclasses.replace(GOOD, round=number, jct_mean=theirs))
    return made


def test_a_ratio_is_taken_round_by_round() -> None:
    found = ratio(rounds((1, 2), (3, 6), (20, 40)), "jct_mean", "legato", "fcfs")
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_rounds_that_disagree_give_an_interval() -> None:
    found = ratio(rounds((1, 2), (2, 1), (1, 1)), "jct_mean", "legato", "fcfs")
    assert found.mean == pytest.approx(1)
    assert found.low < 0.5
    assert found.high > 2


def test_a_single_round_says_nothing_of_the_next() -> None:
    found = ratio(rounds((1, 2)), "jct_mean", "legato", "fcfs")
    assert (found.low, found.high) == (0, inf)


def test_every_metric_is_told_for_every_other_system() -> None:
    runs = rounds((1, 2), (3, 6))
    table = ratios(runs, "legato")
    assert [found.metric for found in table["fcfs"]] == list(METRICS)
    text = "\n".join(lines(runs, table, "legato"))
    assert "legato over fcfs" in text
    assert "0.50 [0.50, 0.50]" in text


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mean_waiting": 0.5}, "calls waited"),
        ({"bound_share": 0.1}, "KV memory"),
        ({"cached_share": 0.89}, "lost nothing"),
        ({"failures": ["p: call 1: boom"]}, "boom"),
    ],
)
def test_a_run_without_what_is_compared_is_told(fields: dict[str, object], complaint: str) -> None:
    assert not list(broken([GOOD], "legato"))
    assert complaint in next(broken([dataclasses.replace(GOOD, **fields)], "legato"))


def test_admission_may_keep_memory_from_filling() -> None:
    assert not list(broken([dataclasses.replace(GOOD, system="legato", bound_share=0.0)], "legato"))


def test_a_watch_tells_shares_of_time() -> None:
    watch = Watch([Look(4, 9, 0.9), Look(4, 16, 0.6), Look(1, 4, 0.3)])
    assert (watch.mean_waiting, watch.bound_share, watch.kv_usage) == pytest.approx((3, 1 / 3, 0.6))
    assert (Watch().mean_waiting, Watch().bound_share) == (0, 0)


def test_rounds_have_the_same_shape_and_no_common_content(tmp_path: Path) -> None:
    sessions = generate("react", 12, 1, Scale(context=1, output=1, calls=3, gaps=1))
    named = [dataclasses.replace(program, calls=program.calls[:8]) for program in sessions if len(program.calls) >= 8]
    for name in ("weka_claude_code", "agentcgroup_claude_code"):
        trace.write(tmp_path / f"{name}.jsonl.gz", named)
    first, second = (programs(tmp_path, 4, 2.0, seed) for seed in (1, 2))
    assert len(first) == len(second) == 4
    assert [program.arrival_s for program in first] == sorted(program.arrival_s or 0.0 for program in first)
    contents = [{segment.hash for program in made for segment in program.segments} for made in (first, second)]
    assert not contents[0] & contents[1]
    assert programs(tmp_path, 4, 2.0, 1) == first
