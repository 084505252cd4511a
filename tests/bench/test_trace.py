"""Trace files keep programs exactly, and take what the schema leaves out."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from bench.replay import prepare
from sim import trace
from sim.programs import mix
from sim.trace import Measured


@pytest.mark.parametrize("name", ["programs.jsonl", "programs.jsonl.gz"])
def test_what_is_written_is_read_back(name: str, tmp_path: Path):
    programs = mix(12, seed=1, programs_per_second=1.0)
    trace.write(tmp_path / name, programs)
    assert list(trace.read(tmp_path / name)) == programs


def test_equal_programs_give_equal_bytes(tmp_path: Path):
    for name in ("one.gz", "two.gz"):
        trace.write(tmp_path / name, mix(4, seed=1, programs_per_second=1.0))
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_measurements_and_the_name_of_the_run_are_kept(tmp_path: Path):
    program = mix(1, seed=1, programs_per_second=1.0)[0]
    measured = Measured(start_s=0.5, llm_s=2.0, rec_in=7, queue_s=1.0, client="openai", error="refused")
    calls = tuple(dataclasses.replace(call, measured=measured) for call in program.calls)
    program = dataclasses.replace(program, calls=calls, run="fcfs")
    trace.write(tmp_path / "run.gz", [program])
    assert list(trace.read(tmp_path / "run.gz")) == [program]


FOREIGN = {
    "program_id": "x-1",
    "workload": "real",
    "tenant": None,
    "arrival_s": None,
    "segments": [["s", 800], ["t", 80], ["u", 8]],
    "calls": [
        {"id": 0, "agent": "main", "thread": 0, "model": "big", "parents": [], "prompt": [[0, 2]], "output_tokens": 9},
        {"id": 1, "agent": "main", "thread": 0, "parents": [0], "prompt": [[0, 1], [2, 1]], "output_tokens": 160}
        | {"wait_s": 500.0, "wait_kind": "user", "llm_s": 3.0},
    ],
}


def test_a_real_trace_is_scaled_and_its_waits_capped_for_replay(tmp_path: Path):
    path = tmp_path / "real.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(FOREIGN).encode()))
    (program,) = prepare(trace.read(path), scale=8, cap_wait_s=60)
    assert program.arrival_s == 0
    assert [segment.tokens for segment in program.segments] == [100, 10, 1]
    assert [call.prompt for call in program.calls] == [(0, 1), (0, 2)]
    assert [call.output_tokens for call in program.calls] == [1, 20]
    assert program.calls[1].wait_s == 60
    assert all(call.measured == Measured() and not call.model for call in program.calls)


def test_only_one_recorded_run_is_replayed():
    programs = mix(4, seed=1, programs_per_second=1.0)
    recorded = [dataclasses.replace(program, run=run) for run in ("one", "two") for program in programs]
    assert [program.program_id for program in prepare(recorded)] == [program.program_id for program in programs]
    assert len(prepare(recorded, limit=2)) == 2
