"""What the cluster says about itself, as values; and what it can be told."""

from typing import Any

import pytest

import legato
from legato.v1 import kv_pb2
from tests.sdk.fake_gateway import FakeGateway


async def test_a_worker_has_a_role_and_a_pool(client: legato.Client) -> None:
    [worker] = await client.workers()
    assert (worker.worker_id, worker.role, worker.pool_id) == ("worker-1", "decode", "host-a")


async def test_a_pool_says_what_it_holds_gives_and_drops(client: legato.Client) -> None:
    [pool] = await client.pools()
    assert (pool.pool_id, pool.retention, pool.num_leases, pool.num_reservations) == ("host-a", "density", 3, 2)
    dram, ssd = pool.tiers
    assert (dram.name, dram.used_bytes, dram.capacity_bytes, dram.num_blocks) == ("dram", 3 << 29, 2 << 30, 1500)
    assert (dram.num_hit_blocks, dram.hit_share, dram.read_bytes, dram.written_bytes) == (600, 0.6, 9 << 30, 4 << 30)
    assert (dram.read_bytes_per_second, dram.written_bytes_per_second) == (250e6, 1e6)
    assert (ssd.name, ssd.hit_share) == ("ssd", 0.15)
    assert (pool.num_requested_blocks, pool.num_missed_blocks) == (1000, 250)
    assert (pool.num_pulled_blocks, pool.num_corrupt_blocks) == (7, 1)
    assert list(pool.evictions.items()) == [("density", 300), ("superseded", 20)]
    assert pool.top_programs == (legato.ProgramBytes("fix-issue-42", 1 << 30),)
    speeds = (pool.load_bytes_per_second, pool.ssd_read_bytes_per_second, pool.pull_bytes_per_second)
    assert speeds == (5e9, 1e9, 0.0)


async def test_a_pool_that_nobody_asked_has_no_hits(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.pools[0].num_requested_blocks = 0
    [pool] = await client.pools()
    assert [tier.hit_share for tier in pool.tiers] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("both", kv_pb2.WORKER_ROLE_BOTH),
        ("prefill", kv_pb2.WORKER_ROLE_PREFILL),
        ("decode", kv_pb2.WORKER_ROLE_DECODE),
    ],
)
async def test_a_workers_role_can_be_changed(
    client: legato.Client, gateway: FakeGateway, role: legato.WorkerRole, expected: Any
) -> None:
    await client.set_worker_role("worker-1", role)
    [request] = gateway.roles
    assert (request.worker_id, request.role) == ("worker-1", expected)


async def test_an_unknown_role_is_refused_before_anybody_is_asked(client: legato.Client, gateway: FakeGateway) -> None:
    role: Any = "sleep"
    with pytest.raises(legato.InvalidRequest, match="both, prefill, decode") as refused:
        await client.set_worker_role("worker-1", role)
    assert refused.value.field == "role"
    assert gateway.roles == []
