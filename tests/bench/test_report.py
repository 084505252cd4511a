"""The table, the sentences under it and the HTML report, from recorded runs made up by hand."""

import dataclasses
import io
import re
from pathlib import Path

from rich.console import Console

from bench import report, table
from sim import trace
from sim.trace import Measured
from tests.bench.canned import runs


def test_the_table_shows_each_run_and_the_ratio():
    rows = {row.metric: row for row in table.rows(runs())["overall"]}
    fcfs, least, ratio = *map(float, rows["queue"].values), float(rows["queue"].ratio)
    assert ratio == round(least / fcfs, 2) == 0.5
    assert rows["cached tokens"].values == ("40.0%", "40.0%")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table.render(runs()))
    text = console.export_text()
    assert all(word in text for word in ("fcfs", "atlas", "map_reduce (6)", "overall (12)", "TTFT p99"))


def test_the_sentences_say_where_the_time_went():
    text = "\n".join(table.explain(runs()))
    assert "atlas changes mean JCT" in text
    assert "most of it is queue time" in text
    assert "short half" in text
    assert "FAILED" not in text


def test_a_run_without_queues_says_that_it_shows_little():
    calm = {"fcfs": [dataclasses.replace(program, arrival_s=1000.0 * n) for n, program in enumerate(runs()["fcfs"])]}
    assert "queues hardly formed" in table.explain(calm)[0]


def test_failures_are_never_hidden():
    broken = runs()
    program = broken["fcfs"][0]
    calls = (dataclasses.replace(program.calls[0], measured=Measured(error="QUEUE_FULL")), *program.calls[1:])
    broken["fcfs"][0] = dataclasses.replace(program, calls=calls)
    assert "fcfs: 1 programs FAILED, first p0: call 0: QUEUE_FULL." in table.explain(broken)


def test_the_report_is_one_file_with_its_plots_inside():
    page = report.page(runs(), "A & B", notes=["two engines"])
    assert page.startswith("<!doctype html>")
    assert "A &amp; B" in page
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_report_can_be_made_again_from_the_trace_file(tmp_path: Path):
    recorded = [dataclasses.replace(program, run=name) for name, programs in runs().items() for program in programs]
    trace.write(tmp_path / "trace.jsonl.gz", recorded)
    assert report.read_runs(tmp_path / "trace.jsonl.gz").keys() == runs().keys()
