"""Figures computed from recorded runs."""

import dataclasses
import itertools

import pytest

from bench.histogram import histogram
from bench.measure import by_shape, critical_path, failures, jct_s, level, queued_calls, summarise
from sim.trace import Measured
from tests.bench.canned import diamond, runs


def test_the_critical_path_goes_through_the_slower_branch_and_adds_up():
    program = diamond()
    spans = critical_path(program)
    assert [span.kind for span in spans] == [
        *("queue", "prefill", "decode"),
        *("queue", "prefill", "decode"),
        *("tool", "prefill", "decode", "other"),
    ]
    assert sum(span.seconds for span in spans) == pytest.approx(jct_s(program)) == pytest.approx(7.1)
    assert all(one.end_s == pytest.approx(two.start_s) for one, two in itertools.pairwise(spans))


def test_a_summary_holds_means_quantiles_and_the_cached_share():
    summary = summarise([diamond(0, queue_s=1.0), diamond(1, queue_s=3.0)])
    assert summary.jct_mean == pytest.approx((jct_s(diamond(0, 1.0)) + jct_s(diamond(1, 3.0))) / 2)
    assert summary.parts["queue"] == pytest.approx(4.0)
    assert sum(summary.parts.values()) == pytest.approx(summary.jct_mean)
    assert summary.cached_share == pytest.approx(0.4)
    assert (summary.programs, summary.failed, summary.calls) == (2, 0, 8)


def test_a_failed_program_counts_as_failed_and_not_into_the_means():
    broken = diamond()
    last = dataclasses.replace(broken.calls[3], measured=Measured(error="Unavailable: gone"))
    broken = dataclasses.replace(broken, calls=(*broken.calls[:3], last))
    assert failures(broken) == ["call 3: Unavailable: gone"]
    summary = summarise([broken, diamond(1)])
    assert (summary.failed, summary.jct_mean) == (1, pytest.approx(jct_s(diamond(1))))


def test_shapes_are_summarised_apart_and_together():
    summaries = by_shape(runs()["fcfs"])
    assert list(summaries) == ["map_reduce", "react", "overall"]
    assert summaries["overall"].programs == summaries["map_reduce"].programs + summaries["react"].programs


def test_the_queue_is_counted_over_time():
    queue = level([(0.0, 2.0), (1.0, 3.0), (5.0, 5.0), (8.0, 10.0)])
    assert (queue.peak, queue.mean, queue.busy_share) == (2, pytest.approx(0.6), pytest.approx(0.5))
    assert queued_calls([diamond()]).peak == 1


def test_a_histograms_quantiles_are_those_of_prometheus():
    text = (
        "# TYPE decision_seconds histogram\n"
        'decision_seconds_bucket{kind="a",le="0.001"} 40\n'
        'decision_seconds_bucket{kind="b",le="0.001"} 50\n'
        'decision_seconds_bucket{kind="a",le="0.01"} 49\n'
        'decision_seconds_bucket{kind="b",le="0.01"} 50\n'
        'decision_seconds_bucket{kind="a",le="+Inf"} 50\n'
        'decision_seconds_bucket{kind="b",le="+Inf"} 50\n'
        "decision_seconds_count 100\n"
    )
    found = histogram(text, "decision_seconds")
    assert found.count == 100
    assert found.quantile(0.45) == pytest.approx(0.0005)
    assert found.quantile(0.99) == pytest.approx(0.01)
    assert found.quantile(1.0) == 0.01
    assert histogram(text, "other").quantile(0.99) == 0
