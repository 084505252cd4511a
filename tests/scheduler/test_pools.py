"""The scheduler and KV pools over real gRPC: what it hears of them, and what it asks of them."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import grpc
import pytest

from legato.v1 import kv_pb2, kvpool_pb2, scheduler_pb2, scheduler_pb2_grpc
from services.common import rpc
from services.common.errors import Reason
from services.common.registry import Registry
from services.scheduler.service import Running
from tests.scheduler.fake_pool import NAMESPACE, fake_pool
from tests.scheduler.fake_worker import SECONDS, FakeGateway, fake_gateway, fake_worker

T = TypeVar("T")

BLOCKS = list(range(100, 140))
PROMPT: dict[str, Any] = {"prompt_tokens": 16 * len(BLOCKS), "block_hashes": BLOCKS}
KV: dict[str, Any] = {"kv_namespace_id": NAMESPACE, "kv_block_bytes": 1000}


async def soon(queue: asyncio.Queue[T]) -> T:
    async with asyncio.timeout(SECONDS):
        return await queue.get()


async def placement_with(gateway: FakeGateway, num_blocks: int) -> scheduler_pb2.Placement:
    """Of a new call, once the scheduler has heard that so many of its blocks are in some pool; the call runs on."""
    async with asyncio.timeout(SECONDS):
        i = 0
        while True:
            await gateway.submit(f"asked{i}", **PROMPT)
            placement = await gateway.placement()
            if placement.kv.handle.num_blocks == num_blocks:
                return placement
            await gateway.finish(placement.call_id)
            i += 1


async def set_role(address: str, worker_id: str, role: kv_pb2.WorkerRole.ValueType) -> None:
    async with rpc.channel(address) as channel:
        request = scheduler_pb2.SetWorkerRoleRequest(worker_id=worker_id, role=role)
        await scheduler_pb2_grpc.SchedulerServiceStub(channel).SetWorkerRole(request, timeout=SECONDS)


async def pools(address: str) -> list[kvpool_pb2.PoolStatus]:
    async with rpc.channel(address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        return list((await stub.ListPools(scheduler_pb2.ListPoolsRequest(), timeout=SECONDS)).pools)


async def test_a_placement_carries_the_plan_and_the_pool_is_told(scheduler: Running, members: Registry) -> None:
    async with (
        fake_pool(members, "h1") as near,
        fake_pool(members, "h2", BLOCKS),
        fake_worker(members, "w1", pool_id="h1", **KV),
        fake_gateway(scheduler.address, "g") as gateway,
    ):
        await soon(near.watches)
        kv = (await placement_with(gateway, len(BLOCKS))).kv
        assert kv.handle == kv_pb2.KVHandle(namespace_id=NAMESPACE, tip=BLOCKS[-1], num_blocks=len(BLOCKS))
        assert kv.replica == kv_pb2.KVReplica(
            pool_id="h2", data_address="data:h2", num_blocks=len(BLOCKS), tier=kv_pb2.KV_TIER_DRAM
        )
        while (prefetch := await soon(near.prefetches)).lease.lease_id != kv.lease.lease_id:
            pass  # of a call before
        assert (prefetch.handle, prefetch.replica) == (kv.handle, kv.replica)
        assert prefetch.lease.duration.seconds > 0


async def test_a_broken_watch_resumes_where_it_was(scheduler: Running, members: Registry) -> None:
    async with (
        fake_pool(members, "h1", BLOCKS[:20]) as pool,
        fake_worker(members, "w1", pool_id="h1", **KV),
        fake_gateway(scheduler.address, "g") as gateway,
    ):
        assert (await soon(pool.watches)).since == 0
        await placement_with(gateway, 20)
        await gateway.finish("asked0")
        pool.says.put_nowait(kvpool_pb2.ReplicaUpdate(namespace_id=NAMESPACE, dram=BLOCKS[20:30]))
        pool.says.put_nowait(None)
        again = await soon(pool.watches)
        assert (again.since, again.arena_id) == (2, "arena")
        async with fake_worker(members, "w2", pool_id="h1", **KV), fake_gateway(scheduler.address, "g2") as other:
            await placement_with(other, 30)


async def test_pools_give_up_programs_that_ended_even_if_they_were_away(scheduler: Running, members: Registry) -> None:
    async with (
        fake_pool(members, "h1", BLOCKS) as pool,
        fake_worker(members, "w1", pool_id="h1", **KV),
        fake_gateway(scheduler.address, "g") as gateway,
    ):
        pool.num_failing_releases = 2
        placement = await placement_with(gateway, len(BLOCKS))
        await gateway.finish(placement.call_id)
        await gateway.end_program()
        assert await soon(pool.releases) == "p"


async def test_pools_are_listed_without_those_that_do_not_answer(scheduler: Running, members: Registry) -> None:
    async with fake_pool(members, "h2") as second, fake_pool(members, "h1") as first, fake_pool(members, "h3") as third:
        for pool in (first, second, third):
            await soon(pool.watches)
        second.answers.clear()
        listed = await pools(scheduler.address)
        assert [pool.description.pool_id for pool in listed] == ["h1", "h3"]
        assert listed[0].num_leases == 3
        second.answers.set()
        assert len(await pools(scheduler.address)) == 3


async def test_a_call_is_handed_from_a_prefill_worker_to_a_decode_worker(scheduler: Running, members: Registry) -> None:
    prefill: dict[str, Any] = {"pool_id": "h1", "role": kv_pb2.WORKER_ROLE_PREFILL, **KV}
    decode: dict[str, Any] = {"pool_id": "h2", "role": kv_pb2.WORKER_ROLE_DECODE, **KV}
    async with (
        fake_pool(members, "h1"),
        fake_pool(members, "h2"),
        fake_worker(members, "d", 8, **decode),
        fake_gateway(scheduler.address, "g") as gateway,
        AsyncExitStack() as stack,
    ):
        for i in range(4):
            await gateway.submit(f"busy{i}")
            assert (await gateway.placement()).worker_id == "d"
        await stack.enter_async_context(fake_worker(members, "p", 8, **prefill))
        async with asyncio.timeout(SECONDS):
            i = 0
            while True:
                await gateway.submit(f"c{i}", **PROMPT)
                placement = await gateway.placement()
                if placement.worker_id == "p":
                    break
                await gateway.finish(f"c{i}")
                i += 1
        assert placement.kv.hand_off
        await gateway.hand_off(placement.call_id, placement.attempt)
        onward = await gateway.placement()
        assert (onward.worker_id, onward.attempt, onward.kv.arriving) == ("d", 2, True)
        assert (onward.kv.handle.num_blocks, onward.kv.replica.pool_id) == (len(BLOCKS), "h1")


async def test_a_role_is_set_without_losing_a_call(scheduler: Running, members: Registry) -> None:
    async with (
        fake_worker(members, "w1", pool_id="h1", **KV) as worker,
        fake_gateway(scheduler.address, "g") as gateway,
    ):
        await gateway.submit("c1")
        await gateway.placement()
        await set_role(scheduler.address, "w1", kv_pb2.WORKER_ROLE_DECODE)
        assert worker.description.role == kv_pb2.WORKER_ROLE_DECODE
        async with rpc.channel(scheduler.address) as channel, asyncio.timeout(SECONDS):
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            while True:
                (listed,) = (await stub.ListWorkers(scheduler_pb2.ListWorkersRequest())).workers
                if listed.description.role == kv_pb2.WORKER_ROLE_DECODE:
                    break
        assert listed.num_placed == 1
        await gateway.submit("c2")
        await gateway.finish("c1")
        assert (await gateway.placement()).call_id == "c2"


async def test_the_role_of_an_unknown_worker_is_not_found(scheduler: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await set_role(scheduler.address, "nobody", kv_pb2.WORKER_ROLE_BOTH)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert rpc.failure_from(raised.value).reason is Reason.WORKER_NOT_FOUND


async def test_a_scheduler_without_pools_lists_none(scheduler: Running) -> None:
    assert await pools(scheduler.address) == []
