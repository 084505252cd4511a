"""Which worker gets a call: load, cache and what is idle."""

from collections import Counter
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.cache_index import CacheIndex
from services.scheduler.events import CacheReported, GatewayLost, LoadReported
from tests.scheduler.stage import Stage

PREFIX = list(range(1000, 1200))
"""200 blocks: 3,200 tokens."""


def slow_prefill(stage: Stage, *worker_ids: str) -> None:
    """1,000 tokens a second: `PREFIX` is worth 3.2 s."""
    for worker_id in worker_ids:
        stage.feed(LoadReported(worker_id, step_seconds=0.01, prefill_tokens_per_second=1000.0))


def test_simultaneous_calls_spread_over_equal_workers() -> None:
    stage = Stage()
    for worker_id in ("a", "b", "c"):
        stage.join(worker_id, seqs=8)
    for i in range(9):
        stage.submit(f"c{i}", f"p{i}")
    assert Counter(place.worker_id for place in stage.placed) == {"a": 3, "b": 3, "c": 3}


def test_a_call_goes_where_its_prefix_is() -> None:
    stage = Stage()
    for worker_id in ("a", "b", "c"):
        stage.join(worker_id, seqs=8)
    slow_prefill(stage, "a", "b", "c")
    stage.submit("other", prompt=2000)
    stage.cache("c", PREFIX)
    stage.submit("c1", blocks=[*PREFIX, 1, 2])
    place = stage.placed[-1]
    assert (place.worker_id, place.expected_cached_tokens) == ("c", 3200)


def test_a_short_wait_for_a_warm_worker_beats_a_cold_one_without_an_idle_slot() -> None:
    stage = Stage(lookahead_calls=1)
    stage.join("warm")
    stage.join("cold")
    slow_prefill(stage, "warm", "cold")
    stage.cache("warm", PREFIX)
    stage.submit("c1", prompt=16)
    stage.submit("c2", prompt=16)
    for call_id in ("w1", "w2"):
        stage.submit(call_id, blocks=PREFIX)
    assert [(place.call_id, place.worker_id) for place in stage.placed[2:]] == [("w1", "warm")]
    stage.finish("c1")
    assert [(place.call_id, place.worker_id) for place in stage.placed[3:]] == [("w2", "warm")]


def test_a_long_wait_for_a_warm_worker_is_escaped() -> None:
    stage = Stage(lookahead_calls=1, assumed_output_tokens=2000)
    stage.join("warm")
    stage.join("cold")
    slow_prefill(stage, "warm", "cold")
    stage.cache("warm", PREFIX)
    stage.submit("long", blocks=PREFIX, output=2000)
    stage.submit("c1", blocks=PREFIX)
    assert [place.worker_id for place in stage.placed] == ["warm", "cold"]


def test_an_idle_slot_takes_the_held_call_that_loses_least() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join("warm")
    stage.join("cold")
    slow_prefill(stage, "warm", "cold")
    stage.cache("warm", PREFIX)
    stage.submit("w", blocks=PREFIX)
    stage.submit("c", prompt=16)
    stage.submit("long", blocks=PREFIX)
    stage.submit("short", blocks=PREFIX[:20])
    stage.finish("c")
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("short", "cold")


def test_an_idle_slot_leaves_a_call_that_gains_by_waiting() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join("warm")
    stage.join("cold", seqs=2)
    slow_prefill(stage, "warm", "cold")
    stage.cache("warm", PREFIX)
    stage.submit("w", blocks=PREFIX)
    stage.submit("c", prompt=16)
    stage.submit("long", blocks=PREFIX)
    assert stage.order == ["w", "c"], "a slot of cold is idle, but computing 3,200 tokens there takes longer"
    stage.finish("w")
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("long", "warm")


def test_no_worker_is_empty_while_a_call_waits() -> None:
    stage = Stage(runs_seconds=2.0, lookahead_calls=0, scan_limit=8)
    for i in range(4):
        stage.join(f"w{i}", seqs=2)
    slow_prefill(stage, *(f"w{i}" for i in range(4)))
    stage.cache("w0", PREFIX)
    for i in range(60):
        stage.submit(f"c{i}", blocks=PREFIX)
    while len(stage.core.queue):
        for worker in stage.core.fleet.workers():
            assert worker.placed
        stage.run(1.0)


def test_no_slot_idles_while_a_call_waits_if_calls_move_at_any_price() -> None:
    stage = Stage(
        runs_seconds=2.0, lookahead_calls=0, scan_limit=8, placement="earliest", placement_params={"gain": inf}
    )
    for i in range(4):
        stage.join(f"w{i}", seqs=2)
    slow_prefill(stage, *(f"w{i}" for i in range(4)))
    stage.cache("w0", PREFIX)
    for i in range(60):
        stage.submit(f"c{i}", blocks=PREFIX)
    while len(stage.core.queue):
        for worker in stage.core.fleet.workers():
            assert len(worker.placed) == 2
        stage.run(1.0)


def cancel(stage: Stage) -> None:
    stage.finish("large", completed=False)


def time_out(stage: Stage) -> None:
    stage.run(5.0)


def lose_its_gateway(stage: Stage) -> None:
    stage.feed(GatewayLost(2))


@pytest.mark.parametrize("remove", [cancel, time_out, lose_its_gateway])
def test_the_kv_kept_for_a_call_that_goes_is_for_the_next(remove: Callable[[Stage], None]) -> None:
    stage = Stage()
    stage.join(seqs=8, blocks=10)
    stage.submit("running", prompt=64, output=16)
    stage.submit("large", prompt=140, timeout=5.0, link=2)
    stage.submit("small", prompt=16)
    assert stage.order == ["running"]
    remove(stage)
    assert stage.order == ["running", "small"]


def test_a_call_that_comes_into_sight_is_looked_at() -> None:
    stage = Stage(lookahead_calls=0, scan_limit=1)
    stage.join(seqs=8, blocks=10)
    stage.submit("running", prompt=64, output=16)
    stage.submit("large", prompt=140)
    stage.submit("small", prompt=16)
    stage.finish("large", completed=False)
    assert stage.order == ["running", "small"]


@given(
    length=st.integers(0, 40),
    held=st.lists(st.integers(0, 40), max_size=6),
    holes=st.sets(st.integers(2000, 2020)),
)
def test_prefix_lengths_are_those_of_a_plain_walk(length: int, held: list[int], holes: set[int]) -> None:
    hashes = list(range(length))
    index = CacheIndex()
    for i, depth in enumerate(held):
        index.join(f"w{i}", 1000)
        index.update(f"w{i}", [*range(depth), *holes], [], reset=False)
    expected = {f"w{i}": min(depth, length) for i, depth in enumerate(held) if min(depth, length)}
    assert index.match(hashes, [f"w{i}" for i in range(len(held))]) == expected


def test_the_index_follows_reports_and_forgets_lost_workers() -> None:
    stage = Stage()
    stage.join("a", blocks=100)
    index = stage.core.fleet.index
    stage.cache("a", range(50))
    stage.feed(CacheReported("a", removed=range(40, 50)))
    assert index.match(list(range(50)), ["a"]) == {"a": 40}
    stage.feed(CacheReported("a", stored=[7], reset=True))
    assert index.num_blocks("a") == 1
    stage.cache("a", range(101))
    assert index.num_blocks("a") == 0, "more than the worker has: not believed"
    stage.lose_worker("a")
    stage.cache("a", range(10))
    assert index.num_blocks("a") == 0
