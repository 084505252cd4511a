"""The saver, its client and a pool that misbehaves; blocks are rows of an array."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from legato.v1 import kv_pb2, kvpool_pb2
from services.common import kv
from services.worker.kv.client import CONTROL_SECONDS, PAUSE_SECONDS, PoolClient
from tests.worker.fake_pool import Door, FakePool, make_pool, serving

if TYPE_CHECKING:
    from services.worker.kv.saver import Saver
    from services.worker.kv.transfer import Save

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # importing torch and vLLM warns

SHARD_BYTES = 4096
USER = kv_pb2.KVUser(program_id="p")


@dataclass
class Rows:
    """Copies of an array's rows; `may_copy` shut: a copy takes until it opens."""

    cache: kv.Arena = field(default_factory=lambda: np.arange(64 * SHARD_BYTES).astype(np.uint8).reshape(64, -1))
    shard_bytes: int = SHARD_BYTES
    may_copy: threading.Event = field(default_factory=threading.Event)
    copying: threading.Event = field(default_factory=threading.Event)
    now: float = 0.0

    def mark(self) -> object:
        return None

    def save(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], after: object) -> list[int]:
        self.copying.set()
        assert self.may_copy.wait(10)
        for offset, block_id in zip(offsets, block_ids, strict=True):
            arena[offset : offset + SHARD_BYTES] = self.cache[block_id]
        return [kv.checksum(self.cache[block_id]) for block_id in block_ids]

    def load(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], checksums: Sequence[int]) -> int:
        raise AssertionError("not here")


@dataclass
class Bench:
    """All of it."""

    pool: FakePool
    door: Door
    client: PoolClient
    rows: Rows
    saver: "Saver"

    async def released(self, *request_ids: str) -> None:
        """Wait until these requests' blocks are free; the engine looks once a step."""
        wanted = set(request_ids)
        async with asyncio.timeout(3 * CONTROL_SECONDS):
            while wanted := wanted - self.saver.take_released():  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncGenerator[Bench]:
    pytest.importorskip("vllm")
    from services.worker.kv.saver import Saver

    pool = make_pool(tmp_path, 64 * SHARD_BYTES)
    namespace = kv_pb2.KVNamespace(model="m", block_size=32, num_shards=1, shard_bytes=SHARD_BYTES)
    rows = Rows()
    rows.may_copy.set()
    async with serving(pool, tmp_path) as door:
        client = PoolClient(f"unix:{door.path}", namespace)
        saver = Saver(rows, client, 0, 1, reservation_seconds=5.0, clock=lambda: rows.now)
        yield Bench(pool, door, client, rows, saver)
        rows.may_copy.set()
        await asyncio.to_thread(saver.close)
        await asyncio.to_thread(client.close)


def key(name: str, i: int) -> bytes:
    return f"{name}-{i}".encode().ljust(32)


def save(name: str, first: int, block_ids: Sequence[int]) -> "Save":
    from services.worker.kv.transfer import Save

    return Save(
        request_id=name,
        user=USER,
        parent_hash=key(name, first - 1) if first else b"",
        first_block=first,
        block_hashes=[key(name, first + i) for i in range(len(block_ids))],
        block_ids=block_ids,
    )


async def test_blocks_are_saved_once_in_their_order_and_then_released(bench: Bench) -> None:
    bench.saver.submit([save("a", 0, [3, 4, 5]), save("a", 3, [9])], None)
    bench.saver.submit([save("a", 0, [3, 4, 5])], None)
    bench.saver.hold(["a", "never saved"])
    await bench.released("a", "never saved")
    await bench.pool.until(lambda: bench.pool.has([key("a", i) for i in range(4)]))
    assert [(asked.first_block, asked.parent_hash) for asked in bench.pool.begun] == [
        (0, b""),
        (3, key("a", 2)),
        (0, b""),
    ]
    counts = bench.saver.counts
    assert (counts.saved_blocks, counts.known_blocks, counts.dropped_blocks) == (4, 3, 0)
    for i, row in enumerate([3, 4, 5, 9]):
        block = next(block for (_, name), block in bench.pool.blocks.items() if name == key("a", i))
        assert (bench.pool.arena[block.offset : block.offset + SHARD_BYTES] == bench.rows.cache[row]).all()


async def test_a_flush_waits_for_the_copy_and_drops_the_rest(bench: Bench) -> None:
    bench.rows.may_copy.clear()
    bench.saver.submit([save("a", 0, [1, 2]), save("a", 2, [3])], None)
    assert await asyncio.to_thread(bench.rows.copying.wait, 5)
    flushed = asyncio.create_task(asyncio.to_thread(bench.saver.flush, {"a"}))
    done, _ = await asyncio.wait([flushed], timeout=0.05)
    assert not done
    bench.rows.may_copy.set()
    async with asyncio.timeout(5):
        await flushed
    await bench.pool.until(lambda: bench.pool.num_aborted == 1)
    assert not bench.pool.blocks
    bench.saver.submit([save("a", 0, [7])], None)  # it runs again, elsewhere
    await bench.pool.until(lambda: bench.pool.has([key("a", 0)]))


async def test_a_full_queue_drops_the_newest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.worker.kv import saver

    monkeypatch.setattr(saver, "MAX_QUEUED_BLOCKS", 3)
    bench.rows.may_copy.clear()
    bench.saver.submit([save("a", 0, [1])], None)
    assert await asyncio.to_thread(bench.rows.copying.wait, 5)
    bench.saver.submit([save("b", 0, [1, 2]), save("c", 0, [1, 2])], None)
    assert bench.saver.counts.dropped_blocks == 2
    bench.saver.hold(["c"])
    assert bench.saver.take_released() == {"c"}


async def test_blocks_that_are_needed_are_given_up_at_once(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    bench.saver.submit([save("a", 0, [1]), save("b", 0, [2])], None)
    bench.saver.hold(["a", "b"])
    await bench.pool.until(lambda: bench.pool.num_asked > 0)
    assert not bench.saver.take_released()
    bench.saver.give_up({"a"})
    assert bench.saver.take_released() == {"a"}
    await bench.released("b")


async def test_a_pool_that_dies_releases_everything_within_its_deadline(bench: Bench) -> None:
    bench.saver.submit([save("a", 0, [1])], None)
    await bench.pool.until(lambda: bench.pool.has([key("a", 0)]))
    await bench.door.shut()
    names = [f"request {i}" for i in range(30)]
    bench.saver.submit([save(name, 0, [1, 2]) for name in names], None)
    bench.saver.hold(names)
    await bench.released(*names)
    assert bench.saver.counts.dropped_blocks == 60


async def test_a_place_outside_of_the_arena_does_no_harm(bench: Bench) -> None:
    bench.pool.misplaced_bytes = 64 * SHARD_BYTES
    bench.saver.submit([save("a", 0, [1, 2, 3])], None)
    bench.saver.hold(["a"])
    await bench.released("a")
    assert bench.saver.counts.saved_blocks == 0
    assert bench.saver.counts.dropped_blocks == 3


async def test_nothing_is_written_when_the_reservation_may_have_lapsed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.saver, "_piece", 1)
    bench.rows.may_copy.clear()
    bench.saver.submit([save("a", 0, [1, 2])], None)
    bench.saver.hold(["a"])
    assert await asyncio.to_thread(bench.rows.copying.wait, 5)
    bench.pool.arena[:] = 7
    bench.rows.now = 5.0  # the engine stood still for so long
    bench.rows.may_copy.set()
    await bench.released("a")
    await bench.pool.until(lambda: bench.pool.num_aborted == 1)
    assert (bench.pool.arena[SHARD_BYTES : 2 * SHARD_BYTES] == 7).all()
    assert (bench.saver.counts.saved_blocks, bench.saver.counts.dropped_blocks) == (0, 2)


async def test_silence_costs_one_deadline_and_is_noticed_to_be_over(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    request = kvpool_pb2.AcquireRequest(namespace_id=bench.client.namespace_id)
    began = time.monotonic()
    answers = [bench.client.acquire(request, 0.0) for _ in range(50)]
    assert [await asyncio.wrap_future(answer) for answer in answers] == [None] * 50
    assert time.monotonic() - began < 2 * CONTROL_SECONDS
    began = time.monotonic()
    assert await asyncio.wrap_future(bench.client.acquire(request, 0.0)) is None
    assert time.monotonic() - began < 0.5
    bench.pool.may_answer.set()
    async with asyncio.timeout(3 * PAUSE_SECONDS):
        while await asyncio.wrap_future(bench.client.acquire(request, 0.0)) is None:  # noqa: ASYNC110 (nobody is told)
            await asyncio.sleep(0.05)


async def test_another_life_of_the_pool_is_attached_to(bench: Bench) -> None:
    request = kvpool_pb2.BeginStoreRequest(namespace_id=bench.client.namespace_id, block_hashes=key("a", 0))
    first = await asyncio.wrap_future(bench.client.begin_store(request))
    bench.pool.forget()
    second = await asyncio.wrap_future(bench.client.begin_store(request))
    assert first is not None
    assert second is not None
    assert first.arena_id != second.arena_id
    assert await asyncio.to_thread(bench.client.arena, second.arena_id) is not None
    assert await asyncio.to_thread(bench.client.arena, first.arena_id) is None


async def test_no_more_is_asked_at_once_than_is_bounded(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    request = kvpool_pb2.AcquireRequest(namespace_id=bench.client.namespace_id)
    answers = [bench.client.acquire(request, 0.0) for _ in range(400)]
    assert sum(answer.done() for answer in answers) >= 144
    bench.pool.may_answer.set()
    found = await asyncio.gather(*(asyncio.wrap_future(answer) for answer in answers))
    assert sum(answer is not None for answer in found) == 256
