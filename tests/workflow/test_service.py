"""The workflow service over real gRPC, with an embedded registry and state store."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import grpc
import pytest

from services.common import registry, rpc, state
from services.common.config import ClusterSection, RegistrySection
from services.common.errors import Reason
from services.common.registry import Registry
from services.common.registry.embedded import serve_embedded
from services.common.state import Store
from services.workflow.config import Settings, WorkflowSection
from services.workflow.service import Running, running
from tests.workflow.log_entries import GAP_SECONDS, OUTPUT_TOKENS, began, ended, forecasts, life, write

SECONDS = 10.0
"""Bound on whatever a test waits for."""
_names = itertools.count(1)


@pytest.fixture
async def settings() -> AsyncIterator[Settings]:
    """Of a cluster of its own."""
    async with serve_embedded() as endpoint:
        yield Settings(
            cluster=ClusterSection(name=f"workflow-test-{next(_names)}"),
            registry=RegistrySection(endpoints=(endpoint,), lease_seconds=2),
            workflow=WorkflowSection(snapshot_seconds=1000.0),
        )


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    async with state.connect(settings.state, settings.cluster.name) as connected:
        yield connected


@pytest.fixture
async def members(settings: Settings) -> AsyncIterator[Registry]:
    async with registry.connect(settings.registry, settings.cluster.name) as connected:
        yield connected


async def caught_up(service: Running) -> None:
    async with asyncio.timeout(SECONDS):
        await service.caught_up.wait()


async def listed(members: Registry) -> str:
    """The address of the first service that the registry lists."""
    async with asyncio.timeout(SECONDS), aclosing(members.watch("workflow")) as snapshots:
        async for snapshot in snapshots:
            for member in snapshot.values():
                return member.address
    raise AssertionError("a watch never ends")


async def learned(store: Store, num_programs: int = 30) -> None:
    """So many programs have lived, an hour ago."""
    for number in range(num_programs):
        await write(store, life(f"old{number}", 4, time.time() - 3600.0 + number))


async def test_it_foretells_what_the_log_taught_it(settings: Settings, store: Store, members: Registry) -> None:
    await learned(store)
    async with running(settings), asyncio.timeout(SECONDS), forecasts(await listed(members)) as stream:
        assert not await stream.first()
        now = time.time()
        await write(store, [began("new", 0, now)])
        first = await stream.of("new", "c0")
        assert (first.thread, first.agent) == ("", "coder")
        middle = first.output.points[len(first.output.points) // 2]
        assert middle == pytest.approx(OUTPUT_TOKENS, rel=0.3)
        await write(store, [ended("new", 0, now + 5.0)])
        second = await stream.of("new")
        middle = second.returns.points[len(second.returns.points) // 2]
        assert middle == pytest.approx(GAP_SECONDS, rel=0.3)
        assert second.revision > first.revision


async def test_a_watcher_gets_first_what_is_in_force(settings: Settings, store: Store) -> None:
    await learned(store)
    await write(store, [began("live", 0, time.time() - 1.0), began("stale", 0, time.time() - 3000.0)])
    async with running(settings) as service:
        await caught_up(service)
        async with asyncio.timeout(SECONDS), forecasts(service.address) as stream:
            [forecast] = await stream.first()
            assert (forecast.program_id, forecast.call_id) == ("live", "c0")
            assert 0 < forecast.valid_seconds < 600.0


async def test_what_was_learned_outlives_the_service_and_the_log(settings: Settings, store: Store) -> None:
    await learned(store)
    now = time.time()
    await write(store, [began("live", 0, now)])
    async with running(settings) as service:
        await caught_up(service)
        async with asyncio.timeout(SECONDS), forecasts(service.address) as stream:
            [before] = await stream.first()
    await write(store, [began("later", 0, now + 1.0)])
    async with running(settings) as service:
        await caught_up(service)
        async with asyncio.timeout(SECONDS), forecasts(service.address) as stream:
            after, later = await stream.first()
    assert (after.program_id, after.revision) == ("live", before.revision)
    assert list(after.output.points) == pytest.approx(list(before.output.points))
    assert later.program_id == "later"
    assert later.revision > after.revision
    middle = later.output.points[len(later.output.points) // 2]
    assert middle == pytest.approx(OUTPUT_TOKENS, rel=0.3)


async def test_what_is_learned_in_the_middle_of_a_batch_is_not_saved(settings: Settings, store: Store) -> None:
    """Its next life reads the batch again."""
    async with running(settings) as service:
        await caught_up(service)
        async with asyncio.timeout(SECONDS), forecasts(service.address) as stream:
            await stream.first()
            await write(store, [began(f"p{number}", 0, time.time()) for number in range(6_000)])
            await stream.of("p0", "c0")
    assert await store.get("workflow/snapshot") is None


async def test_a_snapshot_that_cannot_be_read_costs_nothing_but_time(settings: Settings, store: Store) -> None:
    await learned(store)
    await store.put("workflow/snapshot", b"no snapshot")
    await write(store, [began("new", 0, time.time())])
    async with running(settings) as service:
        await caught_up(service)
        async with asyncio.timeout(SECONDS), forecasts(service.address) as stream:
            [forecast] = await stream.first()
    assert forecast.output.points[len(forecast.output.points) // 2] == pytest.approx(OUTPUT_TOKENS, rel=0.3)


async def test_several_instances_say_the_same(settings: Settings, store: Store) -> None:
    await learned(store)
    async with running(settings) as one, running(settings) as other:
        await caught_up(one)
        await caught_up(other)
        async with asyncio.timeout(SECONDS), forecasts(one.address) as first, forecasts(other.address) as second:
            await write(store, [began("new", 0, time.time())])
            mine, theirs = await first.of("new", "c0"), await second.of("new", "c0")
    assert list(mine.output.points) == list(theirs.output.points)


async def test_entries_that_make_no_sense_are_passed_over(settings: Settings, store: Store) -> None:
    ahead = began("ahead", 0, time.time() + 1e6)
    nobody = began("", 0, time.time())
    unknown = type(ahead)(at=time.time())
    await write(store, [ahead, nobody, unknown])
    async with running(settings) as service, asyncio.timeout(SECONDS):
        await caught_up(service)
        async with forecasts(service.address) as stream:
            await write(store, [began("p", 0, time.time())])
            assert (await stream.of("p", "c0")).valid_seconds > 0


async def test_streams_end_with_the_service(settings: Settings) -> None:
    async with asyncio.timeout(SECONDS), AsyncExitStack() as stack:
        async with running(settings) as service:
            await caught_up(service)
            stream = await stack.enter_async_context(forecasts(service.address))
            await stream.first()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.of("never")
    assert rpc.failure_from(raised.value).reason is Reason.DRAINING
