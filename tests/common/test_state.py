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
from services.common.state import KEPT_ENTRIES, ONCE_SECONDS, GroupStatus, Store, StoreUnavailable, connect, order
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


async def test_a_fence_lets_nobody_back_behind_a_greater_token(store: Store):
    await store.put("old", b"1")
    assert await store.write("f", 9, {"a": b"9"}, ["old", "never there"]) == 9
    assert await store.write("f", 10, {"a": b"10", "empty": b""}) == 10
    assert await store.write("f", 9, {"a": b"9", "b": b"9"}, ["empty"]) == 10
    assert await store.write("f", 10, {}) == 10
    assert await store.write("other", 1, {"b": b"1"}) == 1
    assert await everything(store, "") == {"a": b"10", "empty": b"", "b": b"1"}
    assert await store.write("f", 2**63 - 1, {}) == 2**63 - 1


async def test_what_is_written_behind_a_fence_expires(subject: Subject):
    await subject.store.write("f", 1, {"a": b"1"}, expire_seconds=0.05)
    await subject.expire("a")
    assert await everything(subject.store, "") == {}


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


def entries_of(found: list[tuple[str, bytes]]) -> list[bytes]:
    return [entry for _, entry in found]


async def test_many_entries_are_appended_in_their_order_among_others(store: Store):
    await store.append("s", b"0", "r0")
    await store.append_many("s", [])
    await store.append_many("s", [b"1", b"2"])
    await store.append_many("s", [b"1", b"2"])
    assert entries_of(await store.read("s")) == [b"0", b"1", b"2", b"1", b"2"]


async def test_a_stream_keeps_as_many_as_its_writer_says_and_not_many_more(store: Store):
    for start in range(0, 2000, 100):
        await store.append_many("s", [b"%d" % number for number in range(start, start + 100)], keep=300)
    kept = entries_of(await store.read("s", count=5000))
    assert 300 <= len(kept) <= 500  # Redis drops whole nodes of 100
    assert kept == [b"%d" % number for number in range(2000 - len(kept), 2000)]
    assert (await store.status("s", "g")).oldest == (await store.read("s", count=1))[0][0]


@pytest.mark.parametrize("grouped", [False, True])
async def test_who_waits_gets_what_comes(store: Store, grouped: bool):
    await store.seek("s", "g")

    async def read(wait_seconds: float) -> list[bytes]:
        if grouped:
            return entries_of(await store.read_group("s", "g", "r", wait_seconds=wait_seconds))
        return entries_of(await store.read("s", wait_seconds=wait_seconds))

    assert await read(0.0) == []
    assert await read(0.01) == []
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(read(10.0))
        await store.get("something else")  # is answered meanwhile
        assert not waiting.done()
        await store.append_many("s", [b"x", b"y"])
    assert waiting.result()[:1] == [b"x"]


async def test_readers_that_wait_hold_up_nothing_else(store: Store):
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(store.read("s", wait_seconds=10.0)) for _ in range(32)]
        await asyncio.gather(*(store.put(f"k{number}", b"1") for number in range(100)))
        await store.append("s", b"x", "r")
    assert [entries_of(task.result()) for task in waiting] == [[b"x"]] * 32


async def test_each_entry_goes_to_one_reader_of_a_group_and_to_every_group(store: Store):
    await store.append_many("s", [b"%d" % number for number in range(6)])
    await store.seek("s", "g")
    await store.seek("s", "h")
    first = await store.read_group("s", "g", "one", count=2)
    second = await store.read_group("s", "g", "two", count=100)
    assert entries_of(first) == [b"0", b"1"]
    assert entries_of(second) == [b"2", b"3", b"4", b"5"]
    assert await store.read_group("s", "g", "one") == []
    assert entries_of(await store.read_group("s", "h", "one")) == [b"%d" % number for number in range(6)]


async def test_what_was_not_acknowledged_is_pending_and_given_again_after_a_seek(store: Store):
    await store.append_many("s", [b"%d" % number for number in range(5)])
    await store.seek("s", "g")
    given = await store.read_group("s", "g", "r", count=4)
    assert (await store.status("s", "g")).pending == 4
    await store.acknowledge("s", "g", given[1][0])
    assert (await store.status("s", "g")).pending == 2
    await store.seek("s", "g", given[1][0])
    assert entries_of(await store.read_group("s", "g", "r")) == [b"2", b"3", b"4"]
    assert (await store.status("s", "g")).pending == 3
    await store.acknowledge("s", "g", (await store.status("s", "g")).newest)
    status = await store.status("s", "g")
    assert (status.pending, status.lag) == (0, 0)


async def test_thousands_are_acknowledged_at_once(store: Store):
    await store.append_many("s", [b"x"] * 2500)
    await store.seek("s", "g")
    given = await store.read_group("s", "g", "r", count=2500)
    await store.acknowledge("s", "g", given[-2][0])
    assert (await store.status("s", "g")).pending == 1


async def test_a_group_begins_where_it_is_told(store: Store):
    await store.append_many("s", [b"0", b"1", b"2"])
    [(_, _), (middle, _), _] = await store.read("s")
    await store.seek("s", "g", middle)
    assert entries_of(await store.read_group("s", "g", "r")) == [b"2"]
    await store.seek("s", "g")
    assert entries_of(await store.read_group("s", "g", "r")) == [b"0", b"1", b"2"]


async def test_a_status_says_how_far_a_group_has_come(store: Store):
    assert await store.status("s", "g") == GroupStatus()
    await store.append_many("s", [b"%d" % number for number in range(5)])
    ids = [entry_id for entry_id, _ in await store.read("s")]
    assert await store.status("s", "g") == GroupStatus(ids[0], ids[-1], 0, None)
    await store.seek("s", "g")
    await store.read_group("s", "g", "r", count=2)
    assert await store.status("s", "g") == GroupStatus(ids[0], ids[-1], 2, 3)


async def test_a_group_that_is_dropped_or_never_was_has_nothing(store: Store):
    await store.append_many("s", [b"0"])
    await store.seek("s", "g")
    await store.drop_group("s", "g")
    for group in ("g", "other"):
        with pytest.raises(StoreUnavailable, match="group"):
            await store.read_group("s", group, "r")
        await store.acknowledge("s", group, "1-0")
        await store.drop_group("s", group)
    await store.drop_group("no such stream", "g")
    await store.acknowledge("no such stream", "g", "1-0")
    assert entries_of(await store.read("s")) == [b"0"]


async def test_groups_are_dropped_that_nobody_reads_any_more(subject: Subject):
    store = subject.store
    await store.append_many("s", [b"0"])
    for group in ("dead", "alive", "new"):
        await store.seek("s", group)
    await store.read_group("s", "dead", "r")
    await store.put("marker", b"", expire_seconds=0.05)
    await subject.expire("marker")
    await store.read_group("s", "alive", "r")
    await store.drop_idle_groups("s", 0.04)
    await store.drop_idle_groups("no such stream", 0.04)
    with pytest.raises(StoreUnavailable, match="group"):
        await store.read_group("s", "dead", "r")
    assert (await store.status("s", "alive")).pending == 1
    assert entries_of(await store.read_group("s", "new", "r")) == [b"0"]


async def test_ids_sort_as_their_entries_were_appended(store: Store):
    await store.append_many("s", [b"x"] * 12)
    ids = [entry_id for entry_id, _ in await store.read("s")]
    assert sorted(ids, key=order) == ids
    assert order("") == order("0") < order(ids[0])
