"""The command line, and what it shows."""

import json
import re
import sys
from pathlib import Path

import pytest

from sim import __main__ as cli
from sim import plots
from sim.contender import contender
from sim.experiment import Setup, simulate
from sim.outcome import CallResult
from sim.programs import mix
from sim.programs.laws import Scale
from sim.summary import jain, summarise
from sim.table import interval

SETUP = Setup("llama3-8b@a100-tp1", 2)


def test_contenders_fill_slots_and_name_routers() -> None:
    chosen = contender("fcfs+placement=earliest+oracle", SETUP)
    assert (chosen.policy, chosen.oracle, chosen.direct) == ("fcfs", True, False)
    assert chosen.scheduler == {"placement": "earliest", "placement_params": {}}
    params = contender("fcfs+ordering=atlas:num_queues=4:first_bound_seconds=0.5", SETUP).scheduler["ordering_params"]
    assert params == {"num_queues": 4.0, "first_bound_seconds": 0.5}
    router = contender("router:round_robin", SETUP)
    assert (router.direct, router.router) == (True, "round_robin")


@pytest.mark.parametrize(
    "text",
    ["nonsense", "fcfs+nonsense", "fcfs+ordering=", "fcfs+ordering=x", "fcfs+ordering=atlas:x", "router:x", "router:"],
)
def test_what_no_contender_is_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        contender(text, SETUP)


def test_figures_follow_from_the_run() -> None:
    scale = Scale(context=32, output=16, calls=6, gaps=10)
    programs = mix(12, 1, 4.0, scales=dict.fromkeys(("react", "map_reduce", "debate", "plan_execute"), scale))
    outcome = simulate(programs, SETUP)
    summary = summarise(outcome, {program.program_id: program.seconds / 2 for program in outcome.programs})
    assert summary.slowdown == pytest.approx(2.0)
    assert summary.jain == pytest.approx(1.0)
    assert summary.jct_p50 <= summary.jct_p95 <= summary.jct_p99
    assert 0 < summary.cached_share < 1
    assert 0 < summary.ttft_mean < summary.ttft_p99
    assert summary.programs_per_hour == pytest.approx(3600 * 12 / outcome.virtual_seconds)
    assert summary.failed == 0


def test_jain_is_one_for_equals_and_one_in_n_for_one() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_an_interval_is_students() -> None:
    assert interval([1.0]) == 0.0
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_calls_without_a_token_are_counted_over_time() -> None:
    def call(submitted: float, first: float) -> CallResult:
        return CallResult("p", 0, "a", submitted, submitted, first, first + 1, 10, 0, 2, "w0")

    times, counts = plots.without_token([call(0.0, 5.0), call(1.0, 2.0)])
    assert (times, counts) == ([0.0, 1.0, 2.0, 5.0], [1, 2, 1, 0])


def test_policies_are_run_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--trace react --limit 4 --divide-context 16 --divide-output 8 --workers 2 --rate 2 --seeds 1,2"
    options += f" --profile llama3-8b@a100-tp1 --policies fcfs,router:session --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["sim", *options.split()])
    cli.main()
    shown = capsys.readouterr().out
    assert "JCT mean" in shown
    assert "router:session" in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(found) for name, found in results["runs"].items()} == {"fcfs": 2, "router:session": 2}
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("jct.png", "ttft.png", "waiting.png"))


@pytest.mark.parametrize("options", ["--trace nowhere", "--trace react --limit 2 --policies nonsense"])
def test_a_mistake_is_told_in_a_line(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sim", *options.split()])
    with pytest.raises(SystemExit, match=r"^sim: [^\n]+$"):
        cli.main()
