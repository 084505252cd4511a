"""One suite for every store: what `Store` promises, of Redis and of the embedded one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from services.common.clock import VirtualClock
from services.common.config import StateSection
from services.common.state import KEPT_ENTRIES, ONCE_SECONDS, Store, connect
from services.common.state.embedded import EmbeddedStore
from tests.servers.redis import RedisServer, redis_server

_redis: Any = Redis  # its keywords are untyped


@dataclass(frozen=True)
class Subject:
    """A store, and how to let time pass until a key of it expires."""

    store: Store
    expire: Callable[[str], Awaitable[None]]


@asynccontextmanager
async def embedded() -> AsyncGenerator[Subject]:
    clock = VirtualClock()

    async def expire(_: str) -> None:
        clock.run(until=clock.now() + 1)

    yield Subject(EmbeddedStore(clock), expire)


@asynccontextmanager
async def on_redis(server: RedisServer) -> AsyncGenerator[Subject]:
    async with _redis.from_url(server.url) as observer, observer.pubsub() as events:
        await observer.flushall()
        await events.subscribe("__keyevent@0__:expired")

        async def expire(key: str) -> None:
            async with asyncio.timeout(5):
                async for event in events.listen():
                    if event["type"] == "message" and event["data"].decode().endswith(f":{key}"):
                        return

        async with connect(StateSection(url=server.url, timeout_seconds=5), "test") as store:
            yield Subject(store, expire)


@pytest.fixture(scope="module")
def server():
    with redis_server() as started:
        yield started


@pytest.fixture(params=["embedded", "redis"])
async def subject(request: pytest.FixtureRequest) -> AsyncGenerator[Subject]:
    opened = embedded() if request.param == "embedded" else on_redis(request.getfixturevalue("server"))
    async with opened as subject:
        yield subject


@pytest.fixture
def store(subject: Subject) -> Store:
    return subject.store


async def everything(store: Store, prefix: str) -> dict[str, bytes]:
    found = [item async for item in store.items(prefix)]
    assert len(found) == len(dict(found)), "a key came twice"
    return dict(found)


async def test_a_value_is_what_was_put_last(store: Store):
    assert await store.get("a") is None
    await store.put("a", b"1")
    await store.put("a", b"\x00\xff")
    assert await store.get("a") == b"\x00\xff"


async def test_an_empty_value_is_a_value(store: Store):
    await store.put("a", b"")
    assert await store.get("a") == b""


async def test_many_values_are_put_together(store: Store):
    await store.put_many({})
    await store.put_many({"a": b"1", "b": b"2"})
    assert await everything(store, "") == {"a": b"1", "b": b"2"}


async def test_deleting_forgets_values_counters_and_streams(store: Store):
    await store.put("a", b"1")
    await store.increment("n", 1, "r1")
    await store.append("s", b"x", "r2")
    await store.delete()
    await store.delete("a", "n", "s", "never there")
    assert await everything(store, "") == {}
    assert await store.read("s") == []


async def test_items_are_those_with_the_prefix_and_nothing_else(store: Store):
    await store.put_many({"p:1": b"1", "p:2": b"2", "q:1": b"3", "p": b"4"})
    await store.increment("p:n", 5, "r1")
    await store.append("p:stream", b"x", "r2")
    assert await everything(store, "p:") == {"p:1": b"1", "p:2": b"2", "p:n": b"5"}


async def test_a_prefix_is_literal(store: Store):
    odd = "a*b?[c]\\^é:"
    await store.put_many({f"{odd}1": b"1", "aXbYc:1": b"2"})
    assert await everything(store, odd) == {f"{odd}1": b"1"}


async def test_a_scan_of_thousands_finds_each_once(store: Store):
    values = {f"k:{number}": b"%d" % number for number in range(3000)}
    await store.put_many(values)
    assert await everything(store, "k:") == values


async def test_a_value_expires(subject: Subject):
    await subject.store.put("a", b"1", expire_seconds=0.05)
    await subject.store.put("b", b"1")
    await subject.expire("a")
    assert await everything(subject.store, "") == {"b": b"1"}
    assert await subject.store.get("a") is None


async def test_putting_again_replaces_the_time_to_live(subject: Subject):
    await subject.store.put_many({"a": b"1", "marker": b""}, expire_seconds=0.05)
    await subject.store.put("a", b"2")
    await subject.expire("marker")
    assert await subject.store.get("a") == b"2"


async def test_a_counter_keeps_its_time_to_live(subject: Subject):
    await subject.store.put("n", b"5", expire_seconds=0.05)
    assert await subject.store.increment("n", 1, "r1") == 6
    await subject.expire("n")
    assert await subject.store.increment("n", 1, "r2") == 1


async def test_a_counter_adds_up_and_reads_as_digits(store: Store):
    assert await store.increment("n", 2, "r1") == 2
    assert await store.increment("n", -5, "r2") == -3
    assert await store.get("n") == b"-3"
    assert await store.increment("n", 2**62, "r3") == 2**62 - 3


async def test_a_repeated_increment_counts_once(store: Store):
    assert await store.increment("n", 2, "r1") == 2
    assert await store.increment("n", 3, "r2") == 5
    assert await store.increment("n", 2, "r1") == 2
    assert await store.get("n") == b"5"


async def test_request_ids_are_counted_for_each_key_apart(store: Store):
    assert await store.increment("a", 1, "b:r") == 1
    assert await store.increment("a:b", 1, "r") == 1
    await store.append("s", b"x", "r")
    await store.append("t", b"x", "r")
    assert len(await store.read("s")) == len(await store.read("t")) == 1


async def test_concurrent_increments_all_count(store: Store):
    sums = await asyncio.gather(*(store.increment("n", 1, f"r{number}") for number in range(100)))
    assert sorted(sums) == list(range(1, 101))


async def test_concurrent_repeats_count_once(store: Store):
    assert set(await asyncio.gather(*(store.increment("n", 1, "same") for _ in range(20)))) == {1}


async def test_a_stream_is_read_in_pages_in_the_order_of_appending(store: Store):
    ids = [await store.append("s", b"%d" % number, f"r{number}") for number in range(7)]
    assert await store.read("s") == [(entry_id, b"%d" % number) for number, entry_id in enumerate(ids)]
    assert [entry for _, entry in await store.read("s", count=3)] == [b"0", b"1", b"2"]
    assert [entry for _, entry in await store.read("s", after=ids[2], count=3)] == [b"3", b"4", b"5"]
    assert await store.read("s", after=ids[-1]) == []


async def test_a_repeated_append_counts_once(store: Store):
    first = await store.append("s", b"x", "r1")
    second = await store.append("s", b"y", "r2")
    assert await store.append("s", b"x", "r1") == first
    assert await store.read("s") == [(first, b"x"), (second, b"y")]


async def test_a_stream_that_nobody_wrote_is_empty(store: Store):
    assert await store.read("s") == []


async def test_the_embedded_store_drops_the_oldest_of_too_many_entries():
    store = EmbeddedStore(VirtualClock())
    ids = [await store.append("s", b"%d" % number, f"r{number}") for number in range(KEPT_ENTRIES + 3)]
    assert await store.read("s", count=2) == [(ids[3], b"3"), (ids[4], b"4")]
    assert await store.read("s", after=ids[-2]) == [(ids[-1], b"%d" % (KEPT_ENTRIES + 2))]


async def test_the_embedded_store_forgets_request_ids_and_what_expired():
    clock = VirtualClock()
    store = EmbeddedStore(clock)
    await store.increment("n", 1, "r1")
    clock.run(until=ONCE_SECONDS)
    assert await store.increment("n", 1, "r1") == 2
