"""What becomes of state when Redis hangs or dies, and who shares a store."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from redis.asyncio import Redis

from services.common.config import StateSection
from services.common.errors import Reason
from services.common.state import Store, StoreUnavailable, connect
from tests.servers import free_port
from tests.servers.redis import RedisServer, redis_server

_redis: Any = Redis  # its keywords are untyped


@pytest.fixture
def server():
    with redis_server(tcp=True) as started:
        yield started


@pytest.fixture
async def store(server: RedisServer) -> AsyncGenerator[Store]:
    async with connect(StateSection(url=server.url, timeout_seconds=0.3), "test") as store:
        yield store


async def test_what_a_frozen_server_did_after_all_is_not_done_twice(server: RedisServer, store: Store):
    assert await store.increment("n", 1, "warm") == 1
    first = await store.append("s", b"warm", "warm")
    server.freeze()
    with pytest.raises(StoreUnavailable):
        await store.increment("n", 1, "lost reply")
    with pytest.raises(StoreUnavailable):
        await store.append("s", b"x", "lost reply")
    server.thaw()
    assert await store.increment("n", 1, "lost reply") == 2
    assert await store.increment("n", 1, "next") == 3
    second = await store.append("s", b"x", "lost reply")
    assert await store.read("s") == [(first, b"warm"), (second, b"x")]


async def test_a_frozen_server_is_noticed_within_the_timeout(server: RedisServer, store: Store):
    await store.put("a", b"1")
    server.freeze()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailable) as caught:
        await store.get("a")
    assert loop.time() - began < 1.0
    assert caught.value.reason is Reason.UNAVAILABLE
    server.thaw()
    assert await store.get("a") == b"1"


async def test_a_killed_server_is_unavailable_until_it_is_back(server: RedisServer, store: Store):
    assert await store.increment("n", 1, "r1") == 1
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.get("n")
    with pytest.raises(StoreUnavailable):
        _ = [item async for item in store.items("")]
    server.start()
    assert await store.increment("n", 1, "r2") == 1  # the helper's server keeps nothing; the script is loaded anew


async def test_a_server_that_refuses_for_now_is_unavailable(server: RedisServer, store: Store):
    async with _redis.from_url(server.url) as admin:
        await admin.config_set("min-replicas-to-write", 1)
        for write in (store.put("a", b"1"), store.increment("n", 1, "r"), store.put_many({"a": b"1"})):
            with pytest.raises(StoreUnavailable, match="replicas"):
                await write
        await admin.config_set("min-replicas-to-write", 0)
    await store.put("a", b"1")


async def test_a_full_disk_costs_nothing_that_was_acknowledged():
    with redis_server(tcp=True, durable=True) as server:
        section = StateSection(url=server.url, timeout_seconds=2)
        async with connect(section, "test") as store, _redis.from_url(server.url) as admin:
            await admin.bgrewriteaof()  # Redis opens the file that a rewrite begins otherwise than its first
            await _rewritten(admin, 0)
            kept: list[str] = []
            for episode in range(3):
                server.fill(room_bytes=100)
                with contextlib.suppress(StoreUnavailable):
                    while True:
                        await store.put(f"{episode}-{len(kept)}", bytes(1000))
                        kept.append(f"{episode}-{len(kept)}")
                server.free()
                rewritten = await _rewrites(admin)
                while True:  # it tries to write once a second
                    with contextlib.suppress(StoreUnavailable):
                        await store.put(f"{episode}-after", bytes(1000))
                        break
                kept.append(f"{episode}-after")
                await _rewritten(admin, rewritten)
            server.kill()
            server.start()
            assert [key for key in kept if await store.get(key) is None] == []


async def _rewrites(admin: Any) -> int:
    """How many have ended."""
    said = await admin.info("persistence")
    return said["aof_rewrites"] - said["aof_rewrite_in_progress"]


async def _rewritten(admin: Any, before: int) -> None:
    """Wait for the end of one more. Redis tells only who asks."""
    async with asyncio.timeout(20):
        while await _rewrites(admin) == before:
            pass


async def test_more_operations_than_connections_wait_their_turn(server: RedisServer):
    async with connect(StateSection(url=server.url, timeout_seconds=5), "test") as store, asyncio.timeout(5):
        await asyncio.gather(*(store.put(f"k{number}", b"1") for number in range(500)))
        assert len([item async for item in store.items("k")]) == 500


async def test_cancelled_operations_leave_no_answer_to_the_wrong_question(server: RedisServer):
    async with connect(StateSection(url=server.url, timeout_seconds=5), "test") as store, asyncio.timeout(10):
        await store.put_many({f"k{number}": b"%d" % number for number in range(50)})
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(store.get(f"k{number}")).cancel()
        for number in range(50):
            assert await store.get(f"k{number}") == b"%d" % number


async def test_connecting_does_not_wait_for_the_server():
    section = StateSection(url=f"redis://127.0.0.1:{free_port()}/0", timeout_seconds=0.3)
    async with connect(section, "test") as store:
        with pytest.raises(StoreUnavailable):
            await store.get("a")


async def test_clusters_on_one_server_do_not_meet(server: RedisServer):
    section = StateSection(url=server.url)
    async with connect(section, "one") as one, connect(section, "two") as two:
        await one.put("a", b"1")
        assert await two.get("a") is None
        assert [item async for item in two.items("")] == []


async def test_the_services_of_a_process_share_the_embedded_store_of_their_cluster():
    async with connect(StateSection(), "one") as first:
        await first.put("a", b"1")
        async with connect(StateSection(), "one") as second, connect(StateSection(), "two") as other:
            assert await second.get("a") == b"1"
            assert await other.get("a") is None
    async with connect(StateSection(), "one") as later:
        assert await later.get("a") is None


@pytest.mark.parametrize("num_turns", range(1, 12))
async def test_an_operation_that_is_cancelled_at_any_moment_ends_so(store: Store, num_turns: int) -> None:
    await store.get("k")  # the connection is there
    operation = asyncio.create_task(store.get("k"))
    for _ in range(num_turns):
        await asyncio.sleep(0)
    if not operation.done():
        operation.cancel()
        await asyncio.wait([operation], timeout=5.0)
        assert operation.cancelled()


async def test_what_was_to_be_written_is_not_said_when_it_was_refused(server: RedisServer, store: Store):
    await store.put("warm", b"1")
    async with _redis.from_url(server.url) as admin:
        await admin.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreUnavailable, match="replicas") as caught:
        await store.append_many("s", [b"what nobody else should read"])
    assert "nobody" not in str(caught.value)
