"""The forecast bench: what its figures say of laws that are known, and a run over made-up programs."""

import random
from math import inf

import pytest

from bench.forecast import report
from bench.forecast.run import run
from bench.forecast.score import Score
from bench.forecast.sets import TraceSet
from bench.forecast.truth import Outcome
from services.common.laws import Quantiles
from sim import programs


def test_laws_that_are_right_cover_and_are_sharper_than_one_for_all() -> None:
    rng = random.Random(1)
    score = Score(0.001)
    chances = [(place + 0.5) / 50 for place in range(50)]
    for index in range(4000):
        scale = rng.choice((1.0, 20.0))
        outcome = Outcome("returns", "p", Quantiles(scale * (1.0 + chance) for chance in chances), 0.0)
        outcome = outcome._replace(value=scale * (1.0 + rng.random()))
        if index < 2000:
            score.train(outcome)
        else:
            score.test(outcome, rng)
    result = score.result()
    assert result["coverage"] == pytest.approx(0.8, abs=0.03)
    assert result["lower"] > 0.5
    assert result["median_error"] < result["median_error_of_one_law"]


def test_what_never_came_counts_for_that_alone() -> None:
    rng, score = random.Random(1), Score(1.0)
    score.train(Outcome("returns", "p", Quantiles([5.0]), inf))
    score.train(Outcome("returns", "p", Quantiles([5.0]), 5.0))
    score.test(Outcome("returns", "p", Quantiles([5.0], never=0.25), inf), rng)
    score.test(Outcome("returns", "p", Quantiles([5.0], never=0.75), 6.0), rng)
    result = score.result()
    assert (result["values"], result["never_said"], result["never_happened"]) == (1, 0.5, 0.5)


def test_made_up_programs_are_foreseen_and_reported() -> None:
    chosen = TraceSet("react", 0.01, "generated")
    found = programs.generate("react", 30, 1)
    runs = [run(chosen, found, 1, declared=False)]
    lines = report.summary([{"set": "react", "gaps": chosen.gaps, "programs": 30, "runs": runs}])
    assert [line["quantity"] for line in lines] == ["output", "remaining", "returns"]
    calls = sum(len(program.calls) for program in found)
    assert 0 < lines[0]["values"] < calls / 2  # those of the last fifth
    assert all(0.4 <= line["coverage"] <= 1.0 for line in lines)
    assert "| react | output |" in report.page(lines)
