"""Blocks kept after a call, in vLLM's own block pool."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool

    from services.worker.kv.retain import Retention

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # importing torch and vLLM warns

NUM_BLOCKS = 101  # one of them is vLLM's own


@pytest.fixture
def pool() -> "BlockPool":
    pytest.importorskip("vllm")
    from vllm.v1.core.block_pool import BlockPool

    return BlockPool(NUM_BLOCKS, enable_caching=True, hash_block_size=32)


@pytest.fixture
def kept(pool: "BlockPool") -> "Retention":
    from services.worker.kv.retain import Retention

    return Retention(pool)


def used(pool: "BlockPool", kept: "Retention", name: str, count: int, now: float = 0.0) -> list[int]:
    """A call computes blocks, as vLLM does it; they are still its own."""
    kept.make_room(count, now)
    blocks: Any = pool.get_new_blocks(count)
    kept.taken(count)
    for i, block in enumerate(blocks):
        key: Any = f"{name}-{i}".encode()
        pool._insert_block_hash(key, block, num_tokens=32)  # pyright: ignore[reportPrivateUsage] (public ways need a request)
    return [block.block_id for block in blocks]


def ended(pool: "BlockPool", block_ids: Sequence[int]) -> None:
    pool.free_blocks(pool.blocks[block_id] for block_id in reversed(block_ids))


def cached(pool: "BlockPool", name: str, count: int) -> int:
    """Leading blocks that a next call finds."""
    for i in range(count):
        key: Any = f"{name}-{i}".encode()
        if pool.cached_block_hash_to_block.get_one_block(key) is None:
            return i
    return count


def call(pool: "BlockPool", kept: "Retention", name: str, count: int, until: float, now: float = 0.0) -> None:
    block_ids = used(pool, kept, name, count, now)
    kept.keep(name, block_ids, until)
    ended(pool, block_ids)


def test_kept_blocks_outlive_others_that_came_later(pool: "BlockPool", kept: "Retention") -> None:
    call(pool, kept, "kept", 20, until=10.0)
    for i in range(50):
        ended(pool, used(pool, kept, f"other {i}", 30))
    assert cached(pool, "kept", 20) == 20


def test_after_its_time_a_call_keeps_nothing(pool: "BlockPool", kept: "Retention") -> None:
    call(pool, kept, "kept", 20, until=10.0)
    for i in range(10):
        ended(pool, used(pool, kept, f"other {i}", 30, now=11.0))
    assert cached(pool, "kept", 20) == 0
    assert len(kept) == 0


def test_all_memory_can_be_taken_at_any_time(pool: "BlockPool", kept: "Retention") -> None:
    for i in range(10):
        call(pool, kept, f"kept {i}", 20, until=10.0 + i)
    assert pool.get_num_free_blocks() == NUM_BLOCKS - 1
    ended(pool, used(pool, kept, "all", NUM_BLOCKS - 1))


def test_those_whose_time_ends_first_go_first_and_lose_their_tails(pool: "BlockPool", kept: "Retention") -> None:
    call(pool, kept, "soon", 40, until=10.0)
    call(pool, kept, "late", 40, until=20.0)
    ended(pool, used(pool, kept, "other", 30))
    assert cached(pool, "late", 40) == 40
    assert 0 < cached(pool, "soon", 40) < 40


def test_a_next_call_of_the_same_owner_replaces_what_was_kept(pool: "BlockPool", kept: "Retention") -> None:
    for turn in range(3):
        block_ids = used(pool, kept, f"turn {turn}", 10)
        kept.keep("owner", block_ids, 10.0)
        ended(pool, block_ids)
    assert len(kept) == 1


def test_blocks_that_became_anothers_are_left_alone(pool: "BlockPool", kept: "Retention") -> None:
    draw = random.Random(3)
    running: list[list[int]] = []
    for i in range(400):
        now = float(i)
        free = pool.get_num_free_blocks()
        count = draw.randint(1, 30)
        if count <= free:
            running.append(used(pool, kept, f"call {i}", count, now))
        while running and (len(running) > 4 or count > free):
            block_ids = running.pop(draw.randrange(len(running)))
            if draw.random() < 0.7:
                kept.keep(i % 7, block_ids, now + draw.randint(1, 60))
            ended(pool, block_ids)
            free = pool.get_num_free_blocks()
        in_use = [block_id for block_ids in running for block_id in block_ids]
        assert pool.get_num_free_blocks() == NUM_BLOCKS - 1 - len(in_use)
        assert all(pool.blocks[block_id].ref_cnt == 1 for block_id in in_use)
