"""What is special where there are too many workers to look at all of them for each call."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler import roster
from services.scheduler.holders import Holders, sample_every
from tests.scheduler.stage import Stage
from tests.scheduler.test_machine import Traffic

NUM_WORKERS = 60
PREFIX = list(range(1000, 1200))
"""3,200 tokens."""


def cluster(**settings: int) -> Stage:
    stage = Stage(None, **settings)
    stage.core.check = lambda: None
    for i in range(NUM_WORKERS):
        stage.join(f"w{i}", seqs=4, prefill=1000.0, step=0.01, pool=f"h{i // 2}", blocks=10_000)
    return stage


def test_simultaneous_calls_spread_over_all_of_them() -> None:
    stage = cluster(lookahead_calls=0)
    for i in range(2 * NUM_WORKERS):
        stage.submit(f"c{i}", f"p{i}")
    assert set(Counter(place.worker_id for place in stage.placed).values()) == {2}


def test_a_call_finds_the_one_worker_that_has_its_prefix() -> None:
    stage = cluster()
    stage.cache("w41", PREFIX)
    stage.submit("c1", blocks=[*PREFIX, 1, 2])
    (place,) = stage.placed
    assert (place.worker_id, place.expected_cached_tokens) == ("w41", 3200)


def test_of_many_that_have_it_the_emptiest_is_found() -> None:
    stage = cluster()
    for i in range(50):
        stage.cache(f"w{i}", PREFIX)
    for i in range(100):
        stage.submit(f"c{i}", f"p{i}", blocks=PREFIX)
    assert set(Counter(place.worker_id for place in stage.placed).values()) == {2}
    assert {place.expected_cached_tokens for place in stage.placed} == {3200}


def test_a_call_finds_the_one_pool_that_has_its_prefix() -> None:
    stage = cluster()
    for i in range(NUM_WORKERS // 2):
        stage.pool(f"h{i}")
    stage.pool("h20", dram=PREFIX)
    stage.submit("c1", blocks=PREFIX)
    (place,) = stage.placed
    assert place.worker_id in {"w40", "w41"}
    assert place.expected_cached_tokens == 3200


def test_a_program_comes_back_to_its_worker_without_a_prefix_that_samples_know() -> None:
    stage = cluster()
    stage.submit("c1", blocks=[1, 3, 5])
    (home,) = (place.worker_id for place in stage.placed)
    stage.cache(home, [1, 3, 5])
    for i in range(3):
        stage.submit(f"other{i}", "q")
    stage.finish("c1")
    stage.submit("c2", blocks=[1, 3, 5, 7], prompt=64)
    assert stage.placed[-1].worker_id == home


def test_a_freed_worker_serves_its_own_line_and_an_empty_one_takes_from_the_longest() -> None:
    stage = cluster(lookahead_calls=0)
    stage.cache("w7", PREFIX)
    for i in range(4 * NUM_WORKERS):
        stage.submit(f"c{i}", f"p{i}", output=100)
    for i in range(6):
        stage.submit(f"warm{i}", f"q{i}", blocks=PREFIX)
    held = [call for call in stage.core.queue.front("m", 10) if call.hold is not None]
    assert {call.hold.outlook.worker_id for call in held if call.hold} == {"w7"}
    first = next(place for place in stage.placed if place.worker_id == "w7")
    stage.finish(first.call_id, first.program_id)
    assert (stage.placed[-1].call_id, stage.placed[-1].worker_id) == ("warm0", "w7")
    for place in [place for place in stage.placed if place.worker_id == "w8"]:
        stage.finish(place.call_id, place.program_id)
    assert stage.placed[-1].worker_id == "w8", "an empty worker takes a call though it has to compute its prompt"


@given(
    length=st.integers(1, 80),
    depths=st.lists(st.integers(0, 80), max_size=5),
    every=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 2**32),
)
def test_the_deepest_sampled_block_is_that_of_a_plain_walk(
    length: int, depths: list[int], every: int, seed: int
) -> None:
    hashes = [(i + seed) * 0x9E3779B97F4A7C15 % 2**64 >> 7 for i in range(80)]
    holders = Holders()
    for i, depth in enumerate(depths):
        holders.add(f"w{i}", hashes[:depth], every)
    sampled = [i for i in range(length) if hashes[i] % every == 0]
    deepest = max((i for i in sampled if any(depth > i for depth in depths)), default=-1)
    expected = {f"w{i}" for i, depth in enumerate(depths) if depth > deepest} if deepest >= 0 else set[str]()
    assert set(holders.deepest(hashes[:length], every)) == expected
    for i, depth in enumerate(depths):
        holders.remove(f"w{i}", hashes[:depth], every)
    assert len(holders) == 0


@pytest.mark.parametrize(("block_size", "every"), [(1, 256), (16, 16), (48, 4), (256, 1), (4096, 1)])
def test_about_one_block_in_256_tokens_is_sampled(block_size: int, every: int) -> None:
    assert sample_every(block_size) == every


class Sparse(Traffic):
    """The same traffic where two workers are too many to look at both."""


class TestSparse(Sparse.TestCase):
    settings = settings(max_examples=40, stateful_step_count=40)

    def setUp(self) -> None:
        patched = pytest.MonkeyPatch()
        self.addCleanup(patched.undo)
        patched.setattr(roster, "_FEW", 1)
        patched.setattr(roster, "_LEAST", 1)
