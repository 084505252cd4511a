"""The pool over real gRPC: through its socket and over TCP, with memory that two sides map."""

import asyncio
import itertools
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from legato.v1 import kv_pb2, kvpool_pb2, kvpool_pb2_grpc
from services.common import kv, registry, rpc
from services.common.config import SettingsError
from services.common.errors import Failure, Reason
from services.common.registry.embedded import serve_embedded
from services.kvpool.service import Running, running
from tests.kvpool.pools import MIB, NAMESPACE, SECONDS, SHARD_BYTES, Worker, chain, settings, worker

_clusters = itertools.count(1)

Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
async def endpoint() -> AsyncGenerator[str]:
    async with serve_embedded() as served:
        yield served


@pytest.fixture
def start(endpoint: str, tmp_path: Path) -> Start:
    """Starts a pool of this test's cluster, with settings replaced."""
    cluster = f"kvpool-test-{next(_clusters)}"

    def started(**values: object) -> AbstractAsyncContextManager[Running]:
        return running(settings(endpoint, tmp_path, cluster, **values))

    return started


@pytest.fixture
async def pool(start: Start) -> AsyncGenerator[Running]:
    async with start() as started:
        yield started


@pytest.fixture
async def attached(pool: Running) -> AsyncGenerator[Worker]:
    async with worker(pool.socket) as made:
        yield made


async def failure(call: Awaitable[object]) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return rpc.failure_from(raised.value)


@asynccontextmanager
async def watching(
    stub: kvpool_pb2_grpc.KVPoolServiceStub, since: int = 0, arena_id: str = ""
) -> AsyncGenerator[Callable[[], Awaitable[kvpool_pb2.WatchReplicasResponse]]]:
    """Yields what waits for the next response."""
    call = stub.WatchReplicas(kvpool_pb2.WatchReplicasRequest(since=since, arena_id=arena_id), timeout=SECONDS)
    try:
        yield lambda: anext(aiter(call))
    finally:
        call.cancel()


def short(hashes: list[bytes]) -> set[int]:
    return {int.from_bytes(block_hash[-8:], "big") for block_hash in hashes}


@pytest.mark.parametrize("socket", [True, False])
async def test_what_one_worker_stores_another_reads(pool: Running, socket: bool) -> None:
    hashes = chain("a", 5)
    address = pool.socket if socket else pool.address
    async with worker(address) as first, worker(address) as second:
        assert first.arena is not second.arena
        assert await first.store(hashes) == 5
        acquired = await second.acquire([*hashes, *chain("other", 1)])
        assert len(acquired.offsets) == 5
        assert acquired.arena_id == pool.arena_id
        assert second.right(hashes, acquired)
        assert len((await second.acquire(hashes, num_held=3)).offsets) == 2
        await second.release(num_bytes=5 * 2 * SHARD_BYTES, copy_seconds=0.001)
        status = await second.status()
        assert status.num_leases == 0
        assert status.speeds.load == pytest.approx(10 * SHARD_BYTES / 0.001)
        assert status.tiers[0].read_bytes_per_second > 0


async def test_the_socket_is_the_owners_alone_and_goes_with_the_pool(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "pool" / "pool.sock"
    async with start() as pool:
        assert pool.socket == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def test_a_block_is_there_when_all_its_shards_are(attached: Worker) -> None:
    hashes = chain("a", 2)
    begun = await attached.begin(hashes, shard=1)
    request = kvpool_pb2.CommitRequest(reservation_id=begun.reservation_id, checksums=[1, 2])
    assert (await attached.stub.Commit(request)).num_blocks == 0
    assert not (await attached.acquire(hashes, wait=0)).offsets


async def test_a_reservation_lapses_and_its_room_comes_back(attached: Worker) -> None:
    begun = await attached.begin(chain("a", 4), seconds=0.02)
    assert (await attached.status()).num_reservations == 1
    async with asyncio.timeout(SECONDS):
        while (await attached.status()).num_reservations:  # each round is an RPC
            pass
    request = kvpool_pb2.CommitRequest(reservation_id=begun.reservation_id, checksums=[1, 2, 3, 4])
    assert (await failure(attached.stub.Commit(request))).reason is Reason.LEASE_LOST


async def test_a_writer_that_outlives_the_pool_does_not_meddle_with_the_next(start: Start) -> None:
    async with start() as pool, worker(pool.socket) as attached:
        old = await attached.begin(chain("a", 2))
    async with start() as pool, worker(pool.socket) as attached:
        new = await attached.begin(chain("b", 2))
        await attached.stub.Abort(kvpool_pb2.AbortRequest(reservation_id=old.reservation_id))
        request = kvpool_pb2.CommitRequest(reservation_id=old.reservation_id, checksums=[1, 2])
        assert (await failure(attached.stub.Commit(request))).reason is Reason.LEASE_LOST
        request.reservation_id = new.reservation_id
        await attached.stub.Commit(request)


async def test_an_aborted_reservation_gives_its_room_back(attached: Worker) -> None:
    begun = await attached.begin(chain("a", 4))
    await attached.stub.Abort(kvpool_pb2.AbortRequest(reservation_id=begun.reservation_id))
    status = await attached.status()
    assert (status.num_reservations, status.tiers[0].used_bytes) == (0, 0)


async def test_a_caller_that_goes_away_leaves_no_lease(attached: Worker) -> None:
    hashes = chain("a", 2)
    await attached.begin(hashes)
    request = kvpool_pb2.AcquireRequest(
        lease_id="l", namespace_id=attached.namespace_id, block_hashes=kv.joined(hashes), num_expected=2
    )
    request.wait.FromSeconds(100)
    call = attached.stub.Acquire(request)
    async with asyncio.timeout(SECONDS):
        while not (await attached.status()).num_leases:
            pass
        call.cancel()
        while (await attached.status()).num_leases:
            pass


async def test_a_wait_ends_when_what_is_awaited_comes(attached: Worker, pool: Running) -> None:
    hashes = chain("a", 2)
    request = kvpool_pb2.AcquireRequest(
        lease_id="l", namespace_id=attached.namespace_id, block_hashes=kv.joined(hashes), num_expected=2
    )
    request.wait.FromSeconds(2)
    waiting = attached.stub.Acquire(request, timeout=SECONDS)
    await attached.store(hashes)
    assert attached.right(hashes, await waiting)


async def test_corrupt_blocks_are_dropped(attached: Worker) -> None:
    hashes = chain("a", 3)
    await attached.store(hashes)
    await attached.acquire(hashes)
    await attached.release(corrupt_blocks=[1])
    assert (await attached.status()).num_corrupt_blocks == 1
    assert len((await attached.acquire(hashes, wait=0)).offsets) == 1


async def test_a_watch_tells_what_is_there_and_what_changes(attached: Worker, pool: Running) -> None:
    first, second = chain("a", 3), chain("b", 2)
    await attached.store(first)
    async with watching(attached.stub) as following:
        response = await following()
        assert response.reset
        assert response.description.pool_id == "p"
        assert response.description.data_address == pool.data_address
        assert set(response.updates[0].dram) == short(first)
        await attached.store(second)
        seen, revisions = set[int](), [response.revision]
        while seen != short(second):
            response = await following()
            assert not response.reset
            assert not response.HasField("description")
            revisions.append(response.revision)
            seen |= set(response.updates[0].dram)
        assert revisions == sorted(set(revisions))


async def test_a_watch_goes_on_where_it_ended(attached: Worker, pool: Running) -> None:
    await attached.store(chain("a", 3))
    async with watching(attached.stub) as following:
        revision = (await following()).revision
    await attached.store(chain("b", 2))
    async with watching(attached.stub, revision, pool.arena_id) as following:
        response = await following()
        assert not response.reset
        assert set(response.updates[0].dram) == short(chain("b", 2))
    async with watching(attached.stub, revision, "another life") as following:
        assert (await following()).reset


async def test_a_watch_merges_what_comes_fast(attached: Worker) -> None:
    async with watching(attached.stub) as following:
        await following()
        began = asyncio.get_running_loop().time()
        for number in range(12):
            await attached.store(chain(f"c{number}", 1))
        seen, num_responses = set[int](), 0
        wanted = set[int]().union(*(short(chain(f"c{number}", 1)) for number in range(12)))
        while seen != wanted:
            num_responses += 1
            seen |= {block for update in (await following()).updates for block in update.dram}
        assert num_responses <= 1 + (asyncio.get_running_loop().time() - began) * 20


async def test_a_watch_ends_with_the_pool(start: Start) -> None:
    async with start() as pool:
        channel = rpc.channel(pool.address)
        call = kvpool_pb2_grpc.KVPoolServiceStub(channel).WatchReplicas(kvpool_pb2.WatchReplicasRequest())
        await anext(aiter(call))
    assert (await failure(anext(aiter(call)))).reason is Reason.DRAINING
    await channel.close()


async def test_more_than_memory_holds_comes_back_from_disk(start: Start, tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(12)]  # 12 chains of 4 blocks of 128 KiB: more than 4 MiB
    async with start(ssd_directory=str(tmp_path / "ssd")) as pool, worker(pool.socket) as attached:
        for number, name in enumerate(names):
            await attached.call(chain(name, 4), name)
            await attached.demote(4 * (number + 1), name)
        for name in names:
            assert len((await attached.call(chain(name, 4), name)).offsets) == 4
        status = await attached.status()
        assert status.tiers[1].num_hit_blocks > 0
        assert status.tiers[1].read_bytes >= status.tiers[1].num_hit_blocks * 2 * SHARD_BYTES
        assert (status.num_requested_blocks, status.num_missed_blocks, status.num_corrupt_blocks) == (96, 48, 0)
        samples = {"pool": "p", "tier": "ssd"}
        assert REGISTRY.get_sample_value("legato_kvpool_hit_blocks_total", samples) == status.tiers[1].num_hit_blocks


async def test_a_demoted_program_is_on_disk_alone_and_a_released_one_is_nobodys(start: Start, tmp_path: Path) -> None:
    hashes = chain("a", 4)
    async with start(ssd_directory=str(tmp_path / "ssd")) as pool, worker(pool.socket) as attached:
        await attached.call(hashes)
        assert (await attached.status()).top_programs[0].program_id == "prog"
        async with watching(attached.stub) as following:
            await following()
            assert (await attached.stub.Demote(kvpool_pb2.DemoteRequest(program_id="prog"))).num_blocks == 4
            on_disk = set[int]()
            while on_disk != short(hashes):
                on_disk |= {block for update in (await following()).updates for block in update.ssd}
        request = kvpool_pb2.MatchPrefixRequest(
            namespace_id=attached.namespace_id, block_hashes=kv.joined([*hashes, *chain("z", 1)])
        )
        match = await attached.stub.MatchPrefix(request)
        assert (match.num_blocks, match.num_dram_blocks) == (4, 0)
        tip = int.from_bytes(hashes[-1][-8:], "big")
        handle = kv_pb2.KVHandle(namespace_id=attached.namespace_id, tip=tip, num_blocks=4)
        prefetch = kvpool_pb2.PrefetchRequest(handle=handle, lease=kv_pb2.KVLease(lease_id="ahead"))
        prefetch.lease.duration.FromSeconds(10)
        assert (await attached.stub.Prefetch(prefetch)).num_blocks == 0
        assert len((await attached.call(hashes)).offsets) == 4
        await attached.stub.ReleaseProgram(kvpool_pb2.ReleaseProgramRequest(program_id="prog"))
        assert not (await attached.status()).top_programs


async def test_what_programs_hold_goes_to_disk_with_the_pool(start: Start, tmp_path: Path) -> None:
    hashes = chain("a", 4)
    async with start(ssd_directory=str(tmp_path / "ssd")) as pool, worker(pool.socket) as attached:
        await attached.call(hashes)
    async with start(ssd_directory=str(tmp_path / "ssd")) as pool, worker(pool.socket) as attached:
        assert len((await attached.call(hashes)).offsets) == 4


async def test_blocks_come_from_another_pool(endpoint: str, tmp_path: Path) -> None:
    cluster, hashes = f"kvpool-test-{next(_clusters)}", chain("a", 6)
    near = settings(endpoint, tmp_path / "near", cluster, name="near")
    far = settings(endpoint, tmp_path / "far", cluster, name="far")
    async with running(near) as first, running(far) as second:
        async with worker(second.socket) as there:
            await there.store(hashes)
        async with worker(first.socket) as here:
            request = kvpool_pb2.AcquireRequest(
                lease_id="l",
                namespace_id=here.namespace_id,
                block_hashes=kv.joined(hashes),
                replica=kv_pb2.KVReplica(pool_id="far", data_address=second.data_address, num_blocks=6),
            )
            request.wait.FromSeconds(2)
            acquired = await here.stub.Acquire(request, timeout=SECONDS)
            assert acquired.num_from_peer == 6
            assert here.right(hashes, acquired)
            assert (await here.status()).num_pulled_blocks == 6


async def test_the_pool_is_in_the_registry(pool: Running, endpoint: str) -> None:
    section = settings(endpoint, Path(), "").registry
    async with registry.connect(section, f"kvpool-test-{next(_clusters) - 1}") as members:
        async for pools in members.watch("kvpool"):
            assert pools["p"].address == pool.address
            assert pools["p"].metadata["data_address"] == pool.data_address
            break


def _acquire(**values: Any) -> kvpool_pb2.AcquireRequest:
    return kvpool_pb2.AcquireRequest(**dict[str, Any](lease_id="l", namespace_id="n", block_hashes=bytes(64)) | values)


def _store(**values: Any) -> kvpool_pb2.BeginStoreRequest:
    return kvpool_pb2.BeginStoreRequest(**dict[str, Any](namespace_id="n", block_hashes=bytes(64)) | values)


def _attach(**values: Any) -> kvpool_pb2.AttachRequest:
    namespace = kv_pb2.KVNamespace()
    namespace.CopyFrom(NAMESPACE)
    for name, value in values.items():
        setattr(namespace, name, value)
    return kvpool_pb2.AttachRequest(namespace=namespace)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Attach", _attach(model=""), "namespace.model"),
        ("Attach", _attach(block_size=0), "namespace.block_size"),
        ("Attach", _attach(num_shards=5000), "namespace.num_shards"),
        ("Attach", _attach(shard_bytes=0), "namespace.shard_bytes"),
        ("Attach", _attach(shard_bytes=2**63), "namespace.shard_bytes"),
        ("Acquire", _acquire(lease_id=""), "lease_id"),
        ("Acquire", _acquire(lease_id="x" * 600), "lease_id"),
        ("Acquire", _acquire(namespace_id=""), "namespace_id"),
        ("Acquire", _acquire(block_hashes=bytes(33)), "block_hashes"),
        ("Acquire", _acquire(block_hashes=bytes(32 * 131073)), "block_hashes"),
        ("Acquire", _acquire(num_held=3), "num_held"),
        ("Acquire", _acquire(wait={"seconds": -1}), "wait"),
        ("Acquire", _acquire(duration={"seconds": -1}), "duration"),
        ("Acquire", _acquire(user={"program_id": "x" * 600}), "user.program_id"),
        ("Acquire", _acquire(replica={"pool_id": "q", "num_blocks": 1}), "replica.data_address"),
        ("BeginStore", _store(block_hashes=b""), "block_hashes"),
        ("BeginStore", _store(first_block=1), "parent_hash"),
        ("BeginStore", _store(parent_hash=bytes(32)), "parent_hash"),
        ("Commit", kvpool_pb2.CommitRequest(), "reservation_id"),
        ("Abort", kvpool_pb2.AbortRequest(), "reservation_id"),
        ("FinishCall", kvpool_pb2.FinishCallRequest(), "namespace_id"),
        ("MatchPrefix", kvpool_pb2.MatchPrefixRequest(namespace_id="n", block_hashes=b"x"), "block_hashes"),
        ("Prefetch", kvpool_pb2.PrefetchRequest(), "handle.namespace_id"),
        ("Prefetch", kvpool_pb2.PrefetchRequest(handle=kv_pb2.KVHandle(namespace_id="n")), "handle.num_blocks"),
        ("Demote", kvpool_pb2.DemoteRequest(), "program_id"),
        ("ReleaseProgram", kvpool_pb2.ReleaseProgramRequest(), "program_id"),
    ],
)
async def test_bad_input_is_refused_by_name(attached: Worker, method: str, request_: object, field: str) -> None:
    refused = await failure(getattr(attached.stub, method)(request_, timeout=SECONDS))
    assert (refused.reason, refused.field) == (Reason.INVALID_ARGUMENT, field)
    assert field in refused.message


async def test_a_namespace_that_does_not_fit_or_is_not_known(attached: Worker) -> None:
    refused = await failure(attached.stub.Attach(_attach(shard_bytes=8 * MIB)))
    assert refused.reason is Reason.INVALID_ARGUMENT
    for call in (attached.stub.Acquire(_acquire()), attached.stub.BeginStore(_store())):
        assert (await failure(call)).reason is Reason.MODEL_NOT_FOUND


async def test_two_pools_do_not_share_a_directory(pool: Running, start: Start) -> None:
    with pytest.raises(SettingsError, match=r"kvpool\.directory: another pool runs in"):
        async with start():
            pass


async def test_a_path_that_no_socket_can_have_is_refused(start: Start, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"kvpool\.directory: the path of a socket has at most 107 bytes"):
        async with start(directory=str(tmp_path / ("x" * 100))):
            pass


async def test_a_socket_that_was_left_is_replaced(start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "pool"
    directory.mkdir()
    os.mknod(directory / "pool.sock", stat.S_IFSOCK | 0o600)
    async with start() as pool, worker(pool.socket) as attached:
        assert attached.attached.pool_id == "p"
