"""etcd killed, frozen, emptied, split and locked: what the registry's users see of it (almost nothing)."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from services.common.config import RegistrySection
from services.common.registry import Member, Registry, Unavailable, connect
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.embedded import serve_embedded
from services.common.registry.watch import watch
from tests.registry.conftest import LEASE_SECONDS
from tests.servers import free_port
from tests.servers.etcd import Etcd, etcd, etcd_cluster

PATIENCE_SECONDS = 20.0
A = Member("worker", "a", "a.example:1", {})
B = Member("worker", "b", "b.example:1", {})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Etcd]:
    with etcd(tmp_path) as running:
        yield running


@asynccontextmanager
async def client_of(*addresses: str, timeout_seconds: float = 5.0) -> AsyncGenerator[Client]:
    connection = Connection(addresses, timeout_seconds=timeout_seconds)
    try:
        yield Client(connection)
    finally:
        await connection.close()


def registry_of(*addresses: str, lease_seconds: int = LEASE_SECONDS):
    return connect(RegistrySection(endpoints=addresses, lease_seconds=lease_seconds), "c")


async def until(snapshots: AsyncGenerator[dict[str, Member]], ids: set[str], always: set[str]) -> None:
    """Wait for a snapshot with exactly `ids`; no snapshot before it may lack one of `always`."""
    async for snapshot in snapshots:
        assert snapshot.keys() >= always
        if snapshot.keys() == ids:
            return


async def stays_through_the_grace_time(registry: Registry, snapshots: AsyncGenerator[dict[str, Member]]) -> None:
    """After an absence: B comes, A stays. B's leaving shows only when nobody is missing any more."""
    async with registry.announce(B):
        await until(snapshots, {"a", "b"}, always={"a"})
    await until(snapshots, {"a"}, always={"a"})


async def test_a_watch_outlives_its_server_and_misses_nothing(server: Etcd):
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        client_of(server.address) as watcher,
        client_of(server.address) as writer,
        aclosing(watch(watcher.connection, "k", after=await writer.put("k", b"0"), silence_seconds=2.0)) as batches,
    ):
        await writer.put("k", b"1")
        assert [change.value for change in (await anext(batches)).changes] == [b"1"]
        server.kill()
        server.start()
        await writer.put("k", b"2")  # the watch is read again only after this
        await writer.put("k", b"3")
        seen: list[bytes | None] = []
        resumed = False
        while len(seen) < 2:
            batch = await anext(batches)
            resumed |= batch.resumed
            seen += [change.value for change in batch.changes]
        assert seen == [b"2", b"3"]
        assert resumed


@pytest.mark.parametrize("data", ["kept", "lost"])
async def test_members_stay_when_the_server_is_killed_and_restarted(server: Etcd, data: str):
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        registry_of(server.address) as here,
        registry_of(server.address) as there,
        here.announce(A),
        aclosing(there.watch("worker")) as snapshots,
    ):
        await until(snapshots, {"a"}, always=set())
        server.kill()
        if data == "lost":
            shutil.rmtree(server.folder / server.name)
        server.start()
        await stays_through_the_grace_time(here, snapshots)
        async with aclosing(here.watch("worker")) as fresh:
            assert (await anext(fresh)).keys() == {"a"}


async def test_members_stay_when_the_embedded_registry_restarts():
    port = free_port()
    async with asyncio.timeout(PATIENCE_SECONDS), registry_of(f"127.0.0.1:{port}") as registry:
        async with serve_embedded(port=port):
            snapshots = registry.watch("worker")
            announcement = registry.announce(A)
            await announcement.__aenter__()
            await until(snapshots, {"a"}, always=set())
        async with serve_embedded(port=port):
            await stays_through_the_grace_time(registry, snapshots)
            await announcement.__aexit__(None, None, None)
            await until(snapshots, set(), always=set())
            await snapshots.aclose()


async def test_a_frozen_server_fails_calls_in_time_and_loses_no_members(server: Etcd):
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        client_of(server.address, timeout_seconds=1.0) as client,
        registry_of(server.address) as registry,
        registry.announce(A),
        aclosing(registry.watch("worker")) as snapshots,
    ):
        await until(snapshots, {"a"}, always=set())
        server.freeze()
        with pytest.raises(Unavailable):
            await client.get("k")
        with pytest.raises(Unavailable):
            await client.put("k", b"1")
        server.thaw()
        await stays_through_the_grace_time(registry, snapshots)
        await client.put("k", b"2")


@pytest.mark.parametrize("fault", [Etcd.kill, Etcd.freeze])
async def test_a_cluster_that_loses_a_server_serves_on(tmp_path: Path, fault: Callable[[Etcd], None]):
    with etcd_cluster(tmp_path) as servers:
        names = [f"localhost:{server.client_port}" for server in servers]
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            client_of(*names, timeout_seconds=6.0) as client,
            # A lease must outlast a failover: up to a third of it until the next renewal, an election, a reconnect.
            registry_of(*names, lease_seconds=9) as registry,
            registry.announce(A),
            registry.lead("scheduler", "a") as leadership,
        ):
            before = await client.put("k/0", b"")
            changes = watch(client.connection, "k/", after=before, silence_seconds=2.0, prefix=True)
            async with aclosing(changes) as batches:
                written = [f"k/{number}" for number in range(1, 41)]
                for number, key in enumerate(written):
                    if number == 10:
                        fault(servers[client.connection.current])
                    await client.put(key, b"")
                seen: list[str] = []
                while len(seen) < len(written):
                    seen += [change.key for change in (await anext(batches)).changes]
            assert sorted(set(seen)) == sorted(written)  # a put that was repeated may show twice
            assert not leadership.lost.is_set()
            assert await registry.leader("scheduler") is not None


@pytest.mark.parametrize("absence", ["killed", "frozen"])
async def test_a_leader_leads_on_while_the_server_is_away(server: Etcd, absence: str):
    """Well beyond its lease. A server that was killed gives all leases their time again; one that was frozen may have
    let them lapse, and says so: then a later term begins, of whoever comes first."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        client_of(server.address, timeout_seconds=LEASE_SECONDS + 0.5) as client,
        registry_of(server.address) as one,
        registry_of(server.address) as two,
        one.lead("scheduler", "one") as first,
        asyncio.TaskGroup() as tasks,
    ):
        successor = tasks.create_task(succeed(two))
        await until_candidates(client, 2)
        server.kill() if absence == "killed" else server.freeze()
        with pytest.raises(Unavailable):
            await client.put("k", b"1")  # beyond the lease
        assert not first.lost.is_set()
        server.start() if absence == "killed" else server.thaw()
        leader = await two.leader("scheduler")
        if absence == "killed":
            assert leader is not None
            assert (leader.id, leader.term, first.lost.is_set()) == ("one", first.term, False)
        if leader is not None and leader.id == "one":
            await two.depose(leader)
        await first.lost.wait()
        assert await successor > first.term


async def succeed(registry: Registry) -> int:
    """Lead once; the term."""
    async with registry.lead("scheduler", "two") as leadership:
        return leadership.term


async def until_candidates(client: Client, count: int) -> None:
    prefix = "/legato/c/leaders/scheduler/"
    listing = await client.list(prefix)
    changes = watch(client.connection, prefix, after=listing.revision, silence_seconds=2.0, prefix=True)
    seen = len(listing.entries)
    async with aclosing(changes) as batches:
        while seen < count:
            seen += sum(change.value is not None for change in (await anext(batches)).changes)


async def test_terms_grow_beyond_the_loss_of_the_servers_data(server: Etcd):
    async with asyncio.timeout(PATIENCE_SECONDS), registry_of(server.address) as registry:
        async with client_of(server.address) as client:
            for _ in range(50):
                await client.put("k", b"")
        async with registry.lead("scheduler", "one") as first:
            server.kill()
            shutil.rmtree(server.folder / server.name)
            server.start()
            await first.lost.wait()
        async with registry.lead("scheduler", "one") as forgetful:
            assert forgetful.term < first.term
        async with registry.lead("scheduler", "one", above=first.term) as second:
            assert second.term > first.term


async def test_starting_before_the_server(tmp_path: Path):
    late = Etcd("late", tmp_path)
    try:
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            client_of(late.address, timeout_seconds=0.3) as client,
            registry_of(late.address) as registry,
            aclosing(registry.watch("worker")) as snapshots,
            asyncio.TaskGroup() as tasks,
        ):
            first = tasks.create_task(anext(snapshots))
            with pytest.raises(Unavailable):
                await client.get("k")
            late.start()
            async with registry.announce(A):
                if not await first:  # listed before A was there
                    await until(snapshots, {"a"}, always=set())
    finally:
        late.kill()
