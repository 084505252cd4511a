"""Reading the call log: all of it, in order, from where a snapshot was, whatever becomes of the store."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from prometheus_client import REGISTRY

from legato.v1 import workflow_pb2
from services.common import state
from services.common.call_log import STREAM, batches
from services.common.clock import LoopClock
from services.common.config import StateSection
from services.common.state import Store
from services.common.state.embedded import EmbeddedStore
from services.workflow.log import Batch, LogReader, replay
from tests.servers.redis import RedisServer, redis_server

GAPS = "legato_workflow_log_gaps_total"
UNREADABLE = "legato_workflow_log_unreadable_total"


@pytest.fixture
def server():
    with redis_server(tcp=True, durable=True) as started:
        yield started


@pytest.fixture
def forgetful():
    with redis_server(tcp=True) as started:
        yield started


def on(server: RedisServer, timeout_seconds: float = 5.0) -> StateSection:
    return StateSection(url=server.url, timeout_seconds=timeout_seconds)


@pytest.fixture(params=["embedded", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[Store]:
    section = StateSection() if request.param == "embedded" else on(request.getfixturevalue("server"))
    async with state.connect(section, "test") as opened:
        yield opened


def entries(first: int, last: int) -> list[workflow_pb2.LogEntry]:
    over = [workflow_pb2.ProgramOver(program_id=f"p{number}") for number in range(first, last)]
    return [workflow_pb2.LogEntry(at=float(first), over=one) for one in over]


async def write(store: Store, first: int, last: int, *, each: bool = False, keep: int = 1_000_000) -> None:
    """`each`: every entry is a batch of its own."""
    if each:
        written = [batch for entry in entries(first, last) for batch in batches([entry])]
    else:
        written = list(batches(entries(first, last)))
    await store.append_many(STREAM, [batch.SerializeToString() for batch in written], keep)


def numbers(found: Sequence[workflow_pb2.LogEntry]) -> list[int]:
    return [int(entry.over.program_id[1:]) for entry in found]


class Reading:
    """A reader's batches, and all that was in them."""

    def __init__(self, found: AsyncGenerator[Batch]) -> None:
        self.numbers: list[int] = []
        self._batches = found

    async def until(self, reached: Callable[[Batch], bool]) -> Batch:
        async with asyncio.timeout(20):
            async for batch in self._batches:
                self.numbers += numbers(batch.entries)
                if reached(batch):
                    return batch
        raise AssertionError("a log never ends")

    async def caught_up(self) -> Batch:
        return await self.until(lambda batch: batch.caught_up)

    async def number(self, number: int) -> Batch:
        return await self.until(lambda _: number in self.numbers)


@asynccontextmanager
async def reading(reader: LogReader) -> AsyncGenerator[Reading]:
    async with aclosing(reader.batches()) as found:
        yield Reading(found)


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_a_reader_gets_the_whole_log_in_order_and_then_what_comes(store: Store) -> None:
    await write(store, 0, 20_000)
    async with reading(LogReader(store)) as read, asyncio.TaskGroup() as tasks:
        await read.caught_up()
        assert read.numbers == list(range(20_000))
        waiting = tasks.create_task(read.number(20_001))
        await store.get("something else")
        await write(store, 20_000, 20_002)
        await waiting
    assert read.numbers == list(range(20_002))


async def test_a_backlog_is_read_in_few_steps(store: Store) -> None:
    await write(store, 0, 20_000)
    num_batches = len(await store.read(STREAM, count=20_000))
    async with aclosing(LogReader(store).batches()) as found, asyncio.timeout(20):
        sizes: list[int] = []
        async for batch in found:
            sizes.append(len(batch.entries))
            if batch.caught_up:
                break
    assert sum(sizes) == 20_000
    assert num_batches < 200
    assert len(sizes) <= 1 + num_batches // 50


async def test_an_empty_log_has_been_caught_up_with(store: Store) -> None:
    async with reading(LogReader(store)) as read:
        batch = await read.caught_up()
        assert (batch.position, list(batch.entries)) == ("", [])
        assert (await read.caught_up()).position == ""  # and it says so again
        await write(store, 0, 1)
        assert (await read.number(0)).position != ""


async def test_who_begins_after_a_position_misses_nothing_and_gets_nothing_twice(store: Store) -> None:
    await write(store, 0, 300, each=True)
    async with reading(LogReader(store)) as read:
        batch = await read.number(50)
    seen = read.numbers[-1]
    await write(store, 300, 310)
    async with reading(LogReader(store, after=batch.position)) as again:
        await again.number(309)
    assert again.numbers == list(range(seen + 1, 310))


async def test_what_is_not_acknowledged_is_pending(store: Store) -> None:
    await write(store, 0, 100, each=True)
    reader = LogReader(store)
    async with reading(reader) as read:
        first = await read.number(0)
        await read.number(99)
        assert (await store.status(STREAM, reader.group)).pending == 100
        await reader.acknowledge(first.position)
        assert (await store.status(STREAM, reader.group)).pending == 100 - len(first.entries)


async def test_readers_beside_each_other_get_everything_each_and_leave_nothing_behind(store: Store) -> None:
    one, other = LogReader(store), LogReader(store)
    async with reading(one) as first, reading(other) as second:
        await write(store, 0, 100, each=True)
        await first.number(99)
        await second.number(99)
        assert first.numbers == second.numbers == list(range(100))
        assert (await store.status(STREAM, one.group)).lag == 0
    for reader in (one, other):
        assert (await store.status(STREAM, reader.group)).lag is None


async def test_what_was_dropped_before_it_was_read_is_noticed(store: Store) -> None:
    await write(store, 0, 10, each=True)
    async with reading(LogReader(store)) as read:
        await read.number(9)
        before = counted(GAPS)
        await write(store, 10, 1000, each=True, keep=100)
        await read.number(999)
        assert read.numbers[:10] == list(range(10))
        assert read.numbers[10:] == list(range(read.numbers[10], 1000))
        assert read.numbers[10] > 10
        await write(store, 1000, 1001, keep=100)
        await read.number(1000)
    assert counted(GAPS) == before + 1


async def test_a_batch_that_cannot_be_decoded_is_passed_over(store: Store) -> None:
    before = counted(UNREADABLE)
    await write(store, 0, 1)
    await store.append_many(STREAM, [b"\xff\xff\xff"])
    await write(store, 1, 2)
    async with reading(LogReader(store)) as read:
        await read.number(1)
    assert read.numbers == [0, 1]
    assert counted(UNREADABLE) == before + 1


async def test_the_log_can_be_read_again_from_its_beginning_and_followed(store: Store) -> None:
    await write(store, 0, 500, each=True)
    found = [entry async for page in replay(store) for entry in page]
    assert numbers(found) == list(range(500))
    async with asyncio.timeout(20), aclosing(replay(store, follow=True)) as pages:
        followed: list[int] = []
        async for page in pages:
            followed += numbers(page)
            if followed[-1] == 499:
                await write(store, 500, 501)
            elif followed[-1] == 500:
                break
    assert followed == list(range(501))


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_reader_outlives_its_store(server: RedisServer, frozen: bool) -> None:
    async with state.connect(on(server, 0.3), "test") as store, reading(LogReader(store)) as read:
        async with state.connect(on(server), "test") as writer:
            await write(writer, 0, 100, each=True)
        await read.number(99)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(read.number(149))
            server.freeze() if frozen else server.kill()
            with pytest.raises(state.StoreUnavailable):
                await store.get("a")
            server.thaw() if frozen else server.start()
            async with state.connect(on(server), "test") as writer:
                await write(writer, 100, 150, each=True)
            await waiting
    assert read.numbers == list(range(150))


async def test_a_reader_whose_answers_get_lost_asks_again(server: RedisServer) -> None:
    """The server gives entries out, and freezes before the reader has them."""
    async with state.connect(on(server, 0.3), "test") as store, reading(LogReader(store)) as read:
        await read.caught_up()
        for round in range(5):
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(read.number(10 * round + 9))
                async with state.connect(on(server), "test") as writer:
                    await write(writer, 10 * round, 10 * round + 10, each=True)
                server.freeze()
                with pytest.raises(state.StoreUnavailable):
                    await store.get("a")
                server.thaw()
                await waiting
    assert read.numbers == list(range(50))


class LateStore(EmbeddedStore):
    """The first time that a group is read, that is heard late: after the reader gave up and asked again."""

    late: tuple[str, str, str, int] | None = None
    heard = False

    async def read_group(
        self, stream: str, group: str, reader: str, count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        if self.late is None:
            self.late = (stream, group, reader, count)
            raise state.StoreUnavailable("no answer came")
        if not self.heard:
            self.heard = True
            with suppress(state.StoreUnavailable):
                await super().read_group(*self.late)
        return await super().read_group(stream, group, reader, count, wait_seconds)


async def test_what_is_given_out_after_its_reader_gave_up_is_given_again() -> None:
    store = LateStore(LoopClock())
    await write(store, 0, 10, each=True)
    async with reading(LogReader(store)) as read:
        await read.number(9)
    assert read.numbers == list(range(10))


async def test_a_reader_goes_on_with_a_store_that_lost_the_log(forgetful: RedisServer) -> None:
    async with state.connect(on(forgetful), "test") as store, reading(LogReader(store)) as read:
        await write(store, 0, 10)
        await read.number(9)
        before = counted(GAPS)
        forgetful.kill()
        forgetful.start()
        async with state.connect(on(forgetful), "test") as writer:
            await write(writer, 10, 20)
        await read.number(19)
    assert read.numbers == list(range(20))
    assert counted(GAPS) == before + 1


async def test_a_position_behind_the_end_of_the_log_is_as_good_as_its_end(store: Store) -> None:
    await write(store, 0, 10)
    async with reading(LogReader(store, after="99999999999999-0")) as read:
        assert (await read.caught_up()).position == (await store.status(STREAM, "")).newest
        await write(store, 10, 11)
        await read.number(10)
    assert read.numbers == [10]
