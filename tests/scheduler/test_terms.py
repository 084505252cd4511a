"""Terms: whoever leads says which, whoever has heard of a later one ends it, and the next is later still."""

import asyncio
from contextlib import aclosing

import grpc
import pytest

from services.common import rpc, state
from services.common.config import StateSection
from services.common.errors import Reason
from services.common.registry import Leader, Registry
from services.scheduler.config import Settings
from services.scheduler.service import Running, running
from tests.scheduler.fake_worker import SECONDS, fake_gateway, fake_worker
from tests.scheduler.test_service import leads

FAR = 10**12
"""A term beyond all revisions of a registry that was just made."""


async def next_leader(members: Registry, term: int) -> Leader:
    """Who leads in a later term than that."""
    async with asyncio.timeout(SECONDS), aclosing(members.leaders("scheduler")) as leaders:
        async for leader in leaders:
            if leader is not None and leader.term > term:
                return leader
    raise AssertionError("the registry fell silent")


async def test_the_term_is_said_at_once_and_goes_with_each_placement(scheduler: Running, members: Registry) -> None:
    leader = await next_leader(members, 0)
    assert (leader.id, leader.address) == (scheduler.scheduler_id, scheduler.address)
    async with fake_worker(members, "w1") as worker, fake_gateway(scheduler.address, "g") as gateway:
        assert await gateway.greeting() == leader.term
        await gateway.submit("c1")
        assert (await gateway.placement()).term == leader.term
        assert worker.terms == [leader.term]


async def test_a_worker_that_has_heard_of_a_later_term_ends_the_earlier(scheduler: Running, members: Registry) -> None:
    async with fake_gateway(scheduler.address, "g") as gateway, fake_worker(members, "w1") as worker:
        await gateway.greeting()
        await gateway.submit("c1")
        await gateway.placement()
        worker.latest_term = FAR
        worker.says.put_nowait(None)  # it is called again, and refuses
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gateway.next()  # the call is not placed again: whoever leads later decides
        assert rpc.failure_from(raised.value).reason is Reason.NOT_LEADER
        second = await next_leader(members, FAR)
        await leads(scheduler)
        async with fake_gateway(scheduler.address, "g") as again:
            assert await again.greeting() == second.term


async def test_a_gateway_that_has_heard_of_a_later_term_ends_the_earlier(scheduler: Running, members: Registry) -> None:
    async with fake_gateway(scheduler.address, "g", FAR) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gateway.greeting()
    assert rpc.failure_from(raised.value).reason is Reason.STALE_TERM
    second = await next_leader(members, FAR)
    await leads(scheduler)  # elected, it has yet to begin
    async with fake_gateway(second.address, "g", FAR) as gateway:
        assert await gateway.greeting() == second.term


@pytest.mark.parametrize("term", [1001 << 32, 2**64 - 1])
async def test_nobody_ends_a_term_by_naming_one_that_cannot_be(
    scheduler: Running, members: Registry, term: int
) -> None:
    leader = await next_leader(members, 0)
    async with fake_gateway(scheduler.address, "liar", term) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await gateway.greeting()
    assert rpc.failure_from(raised.value).reason is Reason.STALE_TERM
    async with fake_gateway(scheduler.address, "g", leader.term) as gateway:
        assert await gateway.greeting() == leader.term


async def test_a_store_that_has_met_a_later_term_ends_the_earlier(settings: Settings, members: Registry) -> None:
    async with state.connect(StateSection(), settings.cluster.name) as store:
        await store.write("scheduler", FAR, {})
        async with running(settings) as scheduler:
            leader = await next_leader(members, FAR)
            assert leader.id == scheduler.scheduler_id
            await leads(scheduler)
