"""The grid of policies: pairs, verdicts, cells that are remembered, and what papers' settings are made of."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from bench import reproductions
from bench.policies import cache, cell, closed, plots, synthetic, workloads
from bench.policies.__main__ import collected
from bench.policies.cell import Cell
from bench.policies.comparison import ratio
from bench.policies.contestants import BASELINE, COLD, FORECASTS, ORACLE, OURS, Kind, contestants
from bench.policies.grid import Grid, quick, whole
from bench.policies.page import page
from bench.policies.verdict import Verdict, verdict
from bench.policies.workloads import WORKLOADS, Workload
from bench.policies.worth import share, worth
from bench.reproductions import kvflow

SMALL = Workload("coding_heavy_gaps", 5, 120_000, max_tokens=100_000, heavy_gaps=True)
KINDS: dict[str, Kind] = {
    BASELINE: "baseline",
    OURS: "ours",
    "plas": "published",
    "mlfq": "published",
    "srpt (clairvoyant)": "clairvoyant",
}


def _run(jct: float, **others: float) -> dict[str, Any]:
    usual = {"ttft_mean": 2.0, "ttft_p99": 9.0, "jain": 0.95, "queue": 5.0, "lost_reuse": 0.5, "limit": 20.0}
    return {"jct_mean": jct, "calls": 10, "failed": 0} | usual | others


def _runs(**jcts: float) -> dict[str, list[dict[str, Any]]]:
    """By contestant; its second seed is a tenth slower, for all of them."""
    names = {"base": BASELINE, "ours": OURS, "plas": "plas", "mlfq": "mlfq", "seer": "srpt (clairvoyant)"}
    return {names[name]: [_run(jct), _run(1.1 * jct)] for name, jct in jcts.items()}


def test_a_ratio_is_the_geometric_mean_of_pairs() -> None:
    found = ratio([10.0, 40.0], [20.0, 40.0])
    assert found.value == pytest.approx(0.5**0.5)
    # Logs -0.693 and 0: a deviation of 0.490, over the root of 2, times Student's 12.706.
    assert found.high / found.value == pytest.approx(2.71828 ** (12.706 * 0.4901 / 2**0.5), rel=1e-3)
    turned = ratio([20.0, 40.0], [10.0, 40.0])
    assert (turned.low, turned.high) == (pytest.approx(1 / found.high), pytest.approx(1 / found.low))
    assert ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]).low == pytest.approx(0.5)
    assert ratio([1.0], [2.0]).high == inf


def test_goals_are_checked_against_the_best_of_each_kind() -> None:
    found = verdict("w", 1.5, False, KINDS, _runs(base=100.0, ours=40.0, plas=60.0, mlfq=50.0, seer=35.0))
    assert (found.best_published, found.best_clairvoyant, found.null) == ("mlfq", "srpt (clairvoyant)", "")
    values = {goal.text.split(" <=")[0]: goal.value for goal in found.goals}
    assert values["mean JCT / baseline"] == pytest.approx(0.4)
    assert values["mean JCT / best published (mlfq)"] == pytest.approx(0.8)
    assert values["mean JCT / srpt (clairvoyant)"] == pytest.approx(40 / 35)
    assert found.failing == []


def test_a_goal_that_fails_says_why() -> None:
    found = verdict("w", 1.1, False, KINDS, _runs(base=30.0, ours=24.0, plas=25.0, seer=22.0))
    reasons = {goal.text.split(" <=")[0]: goal.reason for goal in found.failing}
    # The limit is 20 s of 30 (and of 33).
    assert reasons["mean JCT / baseline"].startswith("no policy can")
    assert reasons["mean JCT / best published (plas)"].startswith("srpt (clairvoyant) comes to 0.73")


@pytest.mark.parametrize(("name", "value"), [("queue", 0.3), ("lost_reuse", 0.001)])
def test_where_nothing_waits_nothing_is_claimed(name: str, value: float) -> None:
    runs = _runs(base=100.0, ours=90.0)
    runs[BASELINE][1][name] = value
    found = verdict("w", 1.5, False, KINDS, runs)
    assert found.null.startswith("null")
    assert not found.failing


def test_idle_and_heavy_tailed_cells_have_goals_of_their_own() -> None:
    [idle] = verdict("w", 0.5, False, KINDS, _runs(base=100.0, ours=101.5)).failing
    assert "idle" in idle.text
    [heavy] = verdict("w", 0.9, True, KINDS, _runs(base=100.0, ours=103.0)).failing
    assert "heavy-tailed" in heavy.text
    assert verdict("w", 0.9, False, KINDS, _runs(base=100.0, ours=103.0)).goals == []


def test_the_grid_is_made_of_what_there_is() -> None:
    known = contestants()
    assert {known[BASELINE].kind, known[OURS].kind} == {"baseline", "ours"}
    cells = list(whole(known).cells())
    assert len(cells) == len(set(cells))
    assert {one.contestant.kind for one in cells if one.load < 1} == {"baseline", "reference", "clairvoyant", "ours"}
    assert {one.workload.name for one in cells} == set(WORKLOADS)
    assert set(quick(known).cells()) <= set(cells)


@pytest.mark.parametrize("name", ["tau2_sierra", "chatdev_warehouse", "coding_heavy_gaps", "mix"])
def test_a_history_has_none_of_the_programs_that_are_run(name: str) -> None:
    chosen = WORKLOADS[name]
    some = workloads.programs(chosen, 1)
    before = workloads.history(chosen, some, 1)
    assert before
    assert not {program.program_id.split("#")[0] for program in some} & {program.program_id for program in before}
    assert before == workloads.history(chosen, some, 1)


def test_a_share_of_the_oracles_gain_is_claimed_only_where_it_has_one() -> None:
    assert share(ratio([95.0, 96.0], [100.0, 100.0]), ratio([90.0, 91.0], [100.0, 100.0])) == pytest.approx(
        0.47, abs=0.02
    )
    assert share(ratio([95.0, 96.0], [100.0, 100.0]), ratio([90.0, 120.0], [100.0, 100.0])) is None
    figures = {"jct_mean": 10.0, "ttft_p99": 4.0, "recomputed_tokens": 30}
    told = {"jct_mean": 9.0, "ttft_p99": 5.0, "recomputed_tokens": 15}
    runs = {("w", 1.1): {OURS: [figures] * 2, FORECASTS: [told] * 2, COLD: [figures] * 2, ORACLE: [told] * 2}}
    row = [cell.strip() for cell in list(worth(runs))[-1].split("|")]
    assert row[1:7] == ["w", "1.1", "0.90 (0.90-0.90)", "1.00 (1.00-1.00)", "0.90 (0.90-0.90)", "100%"]
    assert row[10] == "0.50"


def test_programs_depend_on_the_seed_alone() -> None:
    one, again = workloads.programs(SMALL, 3), workloads.programs(SMALL, 3)
    assert one == again
    assert one != workloads.programs(SMALL, 4)
    assert {program.tenant for program in one} <= workloads.TENANTS.keys()


def test_coding_agents_follow_their_laws() -> None:
    programs = synthetic.coding(200, 1, gap_seconds=5.0, gap_sigma=1.0)
    turns = sorted(len(program.calls) for program in programs)
    gaps = sorted(call.wait_s or 0.0 for program in programs for call in program.calls[1:])
    assert turns[100] == pytest.approx(33, rel=0.1)
    assert gaps[len(gaps) // 2] == pytest.approx(5.0, rel=0.1)
    assert gaps[9 * len(gaps) // 10] == pytest.approx(5.0 * 2.71828**1.2816, rel=0.15)
    growth = [(program.prompt_tokens(program.calls[-1]) - 12_000) / (len(program.calls) - 1) for program in programs]
    assert sum(growth) / len(growth) == pytest.approx(2_242, rel=0.05)
    assert programs[3] == synthetic.coding(4, 1, gap_seconds=5.0, gap_sigma=1.0)[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "FOLDER", tmp_path)
    return tmp_path


def test_cells_are_above_their_limit_and_are_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = contestants()
    cells = [Cell(SMALL, load, known[name], 1) for load in (0.5, 3.0) for name in (BASELINE, "fcfs")]
    figures = [cell.measured(one) for one in cells]
    for one, measured in zip(cells, figures, strict=True):
        assert measured["failed"] == 0
        assert measured["jct_mean"] >= cell.limits(SMALL, one.load, 1).seconds
        assert measured["slowdown"] >= 1.0
        assert 0 <= measured["lost_reuse"] <= 1
    assert figures[2]["queue"] > figures[0]["queue"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was simulated before")

    monkeypatch.setattr(cell, "simulate", never)
    assert [cell.measured(one) for one in cells] == figures
    with pytest.raises(AssertionError):
        cell.measured(Cell(SMALL, 0.7, known["fcfs"], 1))


def test_a_closed_loop_reaches_what_a_cluster_can(folder: Path) -> None:
    assert closed.middle_rate([0.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0, 40.0, 90.0]) == pytest.approx(0.5)
    one_engine = replace(SMALL, programs=20, num_workers=1)
    assert 0.2 < closed.reached(closed.Loop(one_engine, contestants()["fcfs"])) < 1.1


def test_a_contestant_that_fails_somewhere_is_left_out_and_named() -> None:
    known = contestants()
    grid = Grid([SMALL], [1.5], [known[BASELINE], known[OURS], known["fcfs"]], [1, 2])
    results = {one: _run(10.0) for one in grid.cells()}
    results[Cell(SMALL, 1.5, known["fcfs"], 2)] = {"error": "ValueError"}
    results[Cell(SMALL, 1.5, known[OURS], 1)] = _run(10.0, failed=1)
    runs, missing = collected(grid, results)
    assert list(runs[SMALL.name, 1.5]) == [BASELINE]
    assert [line.split(" on ")[0] for line in missing] == [OURS, "fcfs"]


def _verdicts() -> tuple[list[Verdict], dict[tuple[str, float], dict[str, list[dict[str, Any]]]]]:
    runs = {
        ("tot_gpt4", 1.5): _runs(base=100.0, ours=60.0, plas=62.0, seer=30.0),
        ("mix", 1.5): _runs(base=100.0, ours=40.0, plas=60.0, seer=35.0),
        ("mix", 0.5): _runs(base=30.0, ours=30.0),
    }
    return [verdict(name, load, False, KINDS, figures) for (name, load), figures in runs.items()], runs


def test_the_page_says_which_goals_fail_and_why() -> None:
    verdicts, runs = _verdicts()
    facts = {"command": "c", "code": "abc", "cells": 1, "seeds": 2, "missing": ["x on y at 1"]}
    text = page(verdicts, runs, facts, ["a.svg"], {("mix", OURS): 0.9, ("mix", BASELINE): 0.4})
    assert "| mean JCT / baseline | 1 of 2 |" in text
    assert "![a.svg](a.svg)" in text
    assert "**0.60" in text
    assert "x on y at 1" in text
    assert "| 0.90 (0.40) |" in text
    failing = text[text.index("## Goals that are not met") : text.index("## All policies")]
    assert "tot_gpt4" in failing
    assert "mix" not in failing


def test_plots_depend_on_the_data_alone() -> None:
    verdicts, _ = _verdicts()
    drawn = [plots.by_policy(verdicts[:2], KINDS), plots.by_load(verdicts)]
    assert drawn == [plots.by_policy(verdicts[:2], KINDS), plots.by_load(verdicts)]
    assert all(b"<svg" in content and len(content) < 200_000 for content in drawn)


@pytest.mark.parametrize("name", reproductions.names())
def test_a_reproduction_says_what_it_must(name: str) -> None:
    paper = reproductions.load(name)
    assert all((paper.TITLE, paper.HEADLINE, paper.SETTING, paper.DIFFERENCE))
    assert callable(paper.measure)


def test_the_closed_form_of_kvflow_holds() -> None:
    rows = kvflow.closed_form()
    assert len(rows) == 3
    assert all(row.holds for row in rows)
