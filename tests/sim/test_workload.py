"""Workloads: sampled, cut, repeated and given arrivals, all by a seed."""

import dataclasses
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from sim import tenants, trace, waits, workload
from sim.programs import generate
from sim.trace import Call, Program, Segment
from sim.waits import Caps


def _program(name: str, wait_s: float | None = 5.0, kind: str = "tool") -> Program:
    segments = (Segment("system", 100), Segment(f"{name}-task", 50))
    second = Call(1, "a", 0, (0,), (0, 1), 10, wait_s=wait_s, wait_kind=kind)
    return Program(name, "w", segments, (Call(0, "a", 0, (), (0, 1), 10), second))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl.gz"
    trace.write(path, [_program(f"p{number}") for number in range(10)])
    return path


def test_a_sample_depends_on_the_seed(file: Path) -> None:
    assert workload.load(file, 4, 1) == workload.load(file, 4, 1)
    assert len({program.program_id for program in workload.load(file, 4, 1)}) == 4
    assert any(workload.load(file, 4, seed) != workload.load(file, 4, 1) for seed in (2, 3))


def test_more_programs_than_there_are_share_what_several_share_and_nothing_else(file: Path) -> None:
    programs = workload.load(file, 25)
    assert len({program.program_id for program in programs}) == 25
    assert {program.segments[0].hash for program in programs} == {"system"}
    assert len({program.segments[1].hash for program in programs}) == 25


def test_programs_that_are_too_long_are_left_out(file: Path) -> None:
    assert len(workload.load(file, max_tokens=160)) == 10
    with pytest.raises(ValueError, match="no program"):
        workload.load(file, max_tokens=159)


@pytest.mark.parametrize(
    ("kind", "wait_s", "least", "most"),
    [
        ("user", 500.0, 60.0, 60.0),
        ("tool", 500.0, 300.0, 300.0),
        ("tool", 5.0, 5.0, 5.0),
        ("tool", None, 0.005, 120.0),
        ("user", None, 0.0, 60.0),
        ("handoff", None, 0.0, 0.0),
    ],
)
def test_waits_are_filled_in_and_capped(kind: str, wait_s: float | None, least: float, most: float) -> None:
    call = _program("p", wait_s, kind).calls[1]
    rng = random.Random(1)
    for _ in range(100):
        filled = waits.filled(call, Caps(60.0, 300.0), rng).wait_s
        assert filled is not None
        assert least <= filled <= most


def test_poisson_arrivals_have_their_rate_and_keep_all_programs() -> None:
    programs = [_program(f"p{number}") for number in range(2000)]
    arrived = workload.arrivals(programs, 4.0, 1)
    times = [program.arrival_s or 0.0 for program in arrived]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(500.0, rel=0.1)
    assert np.std(np.diff(times)) == pytest.approx(0.25, rel=0.1)
    assert {program.program_id for program in arrived} == {program.program_id for program in programs}


def test_recorded_arrivals_are_sped_up_and_spread_within_the_grid() -> None:
    programs = [dataclasses.replace(_program(f"p{number}"), arrival_s=30.0 * number) for number in range(50)]
    times = [program.arrival_s or 0.0 for program in workload.recorded(programs, speed=10.0)]
    assert all(3.0 * at <= time <= 3.0 * at + 0.3 for at, time in enumerate(times))


def test_scaling_keeps_structure_and_sharing() -> None:
    [program] = generate("react", 1, 1)
    [scaled] = workload.scaled([program], context=4.0, output=2.0, gaps=10.0)
    assert [segment.hash for segment in scaled.segments] == [segment.hash for segment in program.segments]
    assert [(call.parents, call.prompt, call.output) for call in scaled.calls] == [
        (call.parents, call.prompt, call.output) for call in program.calls
    ]
    assert sum(call.output_tokens for call in scaled.calls) == pytest.approx(
        sum(call.output_tokens for call in program.calls) / 2, rel=0.02
    )
    assert scaled.segments[0].tokens == pytest.approx(program.segments[0].tokens / 4, abs=1)


def _envelopes(path: Path, rates: dict[str, list[float]], cv: float, spread: str) -> Path:
    rows = [
        {"tenant": name, "window_s": 600, "rate": rate, "cv": [cv] * len(rate), "dist": spread * len(rate)}
        for name, rate in rates.items()
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.mark.parametrize(("spread", "cv"), [("G", 0.5), ("G", 2.0), ("W", 0.5), ("W", 2.0)])
def test_tenants_keep_their_sizes_and_bursts(tmp_path: Path, spread: str, cv: float) -> None:
    path = _envelopes(tmp_path / "t.jsonl.gz", {"large": [30.0] * 40, "small": [10.0] * 40}, cv, spread)
    programs = [_program(f"p{number}") for number in range(8000)]
    arrived = tenants.arrivals(programs, 1.0, count=2, path=path)
    times = [program.arrival_s or 0.0 for program in arrived if program.tenant == "large"]
    assert len(times) / len(arrived) == pytest.approx(0.75, abs=0.05)
    assert (arrived[-1].arrival_s or 0.0) == pytest.approx(8000.0, rel=0.1)
    gaps = np.diff(times)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(cv, rel=0.15)


def test_nobody_comes_in_a_quiet_window(tmp_path: Path) -> None:
    path = _envelopes(tmp_path / "t.jsonl.gz", {"only": [10.0, 0.0] * 20}, 1.0, "G")
    arrived = tenants.arrivals([_program(f"p{number}") for number in range(600)], 0.1, count=1, path=path)
    windows = {int((program.arrival_s or 0.0) // 600) % 2 for program in arrived}
    assert len(windows) == 1
