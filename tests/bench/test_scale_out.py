"""What the sizes of a scale-out run say together."""

import pytest

from bench.histogram import Histogram
from bench.scale_out_load import Took
from bench.scale_out_result import Counts, Size, broken, efficiency


def size(nodes: int, num_calls: int) -> Size:
    empty = Histogram({})
    earlier = Counts(10.0, empty, empty, {"scheduler": 1.0})
    counts = Counts(20.0, empty, empty, {"scheduler": 3.0}).since(earlier)
    calls = [Took(tokens=100, whole=1.5, queued=0.5, engine=0.75)] * num_calls
    return Size.of(nodes, 400 * nodes, counts, calls, [])


def test_efficiency_is_the_throughput_of_a_node_over_that_of_the_first_size() -> None:
    assert efficiency(size(10, 90), size(1, 10)) == pytest.approx(0.9)


def test_rates_are_over_the_measured_time_and_a_call_is_split_into_its_parts() -> None:
    one = size(1, 10)
    assert (one.tokens_per_second, one.calls_per_second, one.cores["scheduler"]) == (100.0, 1.0, 0.2)
    assert (one.queued_p50_seconds, one.engine_p50_seconds, one.beside_p99_seconds) == (0.5, 0.75, 0.25)


def test_a_size_at_which_no_call_ended_is_told() -> None:
    assert broken([size(1, 0)])
    assert not broken([size(1, 1)])
