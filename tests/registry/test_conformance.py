"""What the registry relies on, run against etcd and against the embedded stand-in."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import pytest

from services.common.registry import EtcdError, Member
from services.common.registry import etcd_pb2 as pb
from services.common.registry.client import Client
from services.common.registry.lease import LeaseLost, leased
from services.common.registry.watch import Batch, Change, Compacted, watch
from tests.registry.conftest import LEASE_SECONDS, Connect

SILENCE_SECONDS = 5.0
PATIENCE_SECONDS = 10.0


def worker(id: str, **metadata: str) -> Member:
    return Member("worker", id, f"{id}.example:1", metadata)


def watch_all(client: Client, prefix: str, after: int) -> AsyncGenerator[Batch]:
    return watch(client.connection, prefix, after=after, silence_seconds=SILENCE_SECONDS, prefix=True)


async def first_changes(client: Client, prefix: str, after: int, count: int) -> list[Change]:
    changes: list[Change] = []
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(watch_all(client, prefix, after)) as batches:
        async for batch in batches:
            changes += batch.changes
            if len(changes) >= count:
                break
    return changes


async def until(snapshots: AsyncGenerator[dict[str, Member]], ids: set[str]) -> dict[str, Member]:
    """The first snapshot with exactly these members."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for snapshot in snapshots:
            if snapshot.keys() == ids:
                return snapshot
    raise AssertionError("the watch ended")


class TestKeys:
    async def test_every_write_takes_the_next_revision(self, client: Client, cluster: str):
        first = await client.put(f"{cluster}/a", b"1")
        assert await client.put(f"{cluster}/a", b"2") == first + 1
        entry = await client.get(f"{cluster}/a")
        assert entry is not None
        assert (entry.value, entry.create_revision, entry.mod_revision) == (b"2", first, first + 1)

    async def test_reading_and_deleting_nothing_leave_the_revision(self, client: Client, cluster: str):
        revision = await client.put(f"{cluster}/a", b"1")
        assert await client.get(f"{cluster}/b") is None
        assert not await client.delete(f"{cluster}/b")
        assert (await client.list(cluster)).revision == revision

    async def test_a_list_is_ordered_and_keeps_to_its_prefix(self, client: Client, cluster: str):
        for key in ("x/b", "x/a/c", "x/a", "y", "x", "x0"):
            await client.put(f"{cluster}/{key}", b"")
        listing = await client.list(f"{cluster}/x/")
        assert [entry.key for entry in listing.entries] == [f"{cluster}/x/a", f"{cluster}/x/a/c", f"{cluster}/x/b"]

    async def test_a_key_made_again_is_a_new_one(self, client: Client, cluster: str):
        await client.put(f"{cluster}/a", b"1")
        assert await client.delete(f"{cluster}/a")
        again = await client.put(f"{cluster}/a", b"2")
        entry = await client.get(f"{cluster}/a")
        assert entry is not None
        assert entry.create_revision == again

    async def test_swap_only_what_was_seen(self, client: Client, cluster: str):
        done, made = await client.cas(f"{cluster}/a", b"1", mod_revision=0)
        assert done
        assert made is not None
        assert await client.cas(f"{cluster}/a", b"x", mod_revision=0) == (False, made)
        done, swapped = await client.cas(f"{cluster}/a", b"2", made.mod_revision)
        assert done
        assert swapped is not None
        assert (swapped.value, swapped.create_revision) == (b"2", made.create_revision)

    async def test_a_transaction_is_one_write(self, client: Client, cluster: str):
        before = await client.put(f"{cluster}/old", b"1")
        key, old = f"{cluster}/new".encode(), f"{cluster}/old".encode()
        response = await client.txn(
            [
                pb.Compare(target=pb.Compare.VERSION, key=key, version=0),
                pb.Compare(target=pb.Compare.CREATE, key=old, create_revision=before),
            ],
            [
                pb.RequestOp(put=pb.PutRequest(key=key, value=b"2")),
                pb.RequestOp(delete=pb.DeleteRequest(key=old)),
                pb.RequestOp(range=pb.RangeRequest(key=key)),
            ],
        )
        assert response.succeeded
        assert response.header.revision == before + 1
        assert response.responses[1].delete.deleted == 1
        assert response.responses[2].range.kvs[0].value == b"2"
        changes = await first_changes(client, cluster, before, 2)
        assert {change.revision for change in changes} == {before + 1}

    async def test_a_failed_comparison_takes_the_other_branch(self, client: Client, cluster: str):
        revision = await client.put(f"{cluster}/a", b"1")
        key = f"{cluster}/a".encode()
        response = await client.txn(
            [pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision + 1)],
            [pb.RequestOp(delete=pb.DeleteRequest(key=key))],
            [pb.RequestOp(range=pb.RangeRequest(key=key))],
        )
        assert not response.succeeded
        assert response.header.revision == revision
        assert response.responses[0].range.count == 1


class TestLeases:
    async def test_keys_go_with_a_lease_that_is_not_renewed(self, client: Client, cluster: str):
        lease = await client.grant(1)
        await client.put(f"{cluster}/a", b"", lease)
        revision = await client.put(f"{cluster}/b", b"", lease)
        changes = await first_changes(client, cluster, revision, 2)
        assert {change.key for change in changes} == {f"{cluster}/a", f"{cluster}/b"}
        assert {(change.value, change.revision) for change in changes} == {(None, revision + 1)}
        assert await client.renew(lease, 1.0) == 0

    async def test_a_lease_that_is_gone_cannot_be_used(self, client: Client, cluster: str):
        lease = await client.grant(60)
        await client.revoke(lease)
        with pytest.raises(EtcdError, match="NOT_FOUND: etcdserver: requested lease not found"):
            await client.put(f"{cluster}/a", b"", lease)
        with pytest.raises(EtcdError, match="NOT_FOUND"):
            await client.cas(f"{cluster}/a", b"", 0, lease)
        with pytest.raises(EtcdError, match="NOT_FOUND"):
            await client.revoke(lease)

    async def test_a_key_written_again_without_the_lease_outlives_it(self, client: Client, cluster: str):
        lease = await client.grant(60)
        await client.put(f"{cluster}/a", b"", lease)
        await client.put(f"{cluster}/a", b"")
        await client.revoke(lease)
        assert await client.get(f"{cluster}/a") is not None

    async def test_a_lease_lives_as_long_as_its_block(self, client: Client, cluster: str):
        outlived = await client.grant(LEASE_SECONDS + 1)
        outlived_at = await client.put(f"{cluster}/outlived", b"", outlived)
        async with leased(client, LEASE_SECONDS) as lease:
            await client.put(f"{cluster}/a", b"", lease.id)
            changes = await first_changes(client, f"{cluster}/outlived", outlived_at, 1)
            assert changes[0].value is None
            assert await client.get(f"{cluster}/a") is not None
        assert await client.get(f"{cluster}/a") is None

    async def test_losing_a_lease_ends_its_block(self, client: Client):
        async def lose() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS), leased(client, LEASE_SECONDS) as lease:
                await client.revoke(lease.id)
                await asyncio.Event().wait()

        with pytest.raises(LeaseLost):
            await lose()


class TestWatch:
    async def test_past_and_future_changes_come_once_in_order(self, client: Client, cluster: str):
        before = await client.put(f"{cluster}/a", b"0")
        await client.put(f"{cluster}/a", b"1")
        await client.put(f"{cluster}0", b"not watched")
        await client.delete(f"{cluster}/a")
        seen: list[bytes | None] = []
        async with asyncio.timeout(PATIENCE_SECONDS), aclosing(watch_all(client, f"{cluster}/", before)) as batches:
            async for batch in batches:
                seen += [change.value for change in batch.changes]
                if len(seen) == 2:
                    await client.put(f"{cluster}/b", b"2")
                elif len(seen) == 3:
                    break
        assert seen == [b"1", None, b"2"]

    async def test_a_watch_can_be_taken_up_again(self, client: Client, cluster: str):
        before = await client.put(f"{cluster}/a", b"0")
        await client.put(f"{cluster}/a", b"1")
        seen = await first_changes(client, cluster, before, 1)
        await client.put(f"{cluster}/a", b"2")
        more = await first_changes(client, cluster, seen[-1].revision, 1)
        assert [change.value for change in seen + more] == [b"1", b"2"]

    async def test_history_that_was_compacted_is_refused(self, client: Client, cluster: str):
        before = await client.put(f"{cluster}/a", b"0")
        for value in (b"1", b"2", b"3"):
            last = await client.put(f"{cluster}/a", value)
        await client.compact(last)
        with pytest.raises(Compacted):
            await first_changes(client, cluster, before, 1)
        assert [change.value for change in await first_changes(client, cluster, last - 1, 1)] == [b"3"]
        with pytest.raises(EtcdError, match="OUT_OF_RANGE"):
            await client.compact(last)

    async def test_a_revision_that_the_server_never_had_is_refused(self, client: Client, cluster: str):
        revision = await client.put(f"{cluster}/a", b"0")
        with pytest.raises(Compacted):
            await first_changes(client, cluster, revision + 1000, 1)


class TestDirectory:
    async def test_members_come_and_go(self, open_registry: Connect):
        async with open_registry() as here, open_registry() as there, aclosing(there.watch("worker")) as snapshots:
            await until(snapshots, set())
            member = worker("a", model="tiny", engine="vllm")
            async with here.announce(member):
                assert await until(snapshots, {"a"}) == {"a": member}
                async with here.announce(worker("b")), here.announce(Member("gateway", "c", "", {})):
                    await until(snapshots, {"a", "b"})
                await until(snapshots, {"a"})
            await until(snapshots, set())

    async def test_a_new_watch_starts_with_all_members(self, open_registry: Connect):
        async with (
            open_registry() as registry,
            registry.announce(worker("a")),
            registry.announce(worker("b")),
            aclosing(registry.watch("worker")) as snapshots,
        ):
            assert (await anext(snapshots)).keys() == {"a", "b"}

    async def test_a_burst_is_seen_as_one_change(self, open_registry: Connect):
        async with asyncio.timeout(PATIENCE_SECONDS), open_registry() as registry, AsyncExitStack() as stack:
            slow = await stack.enter_async_context(aclosing(registry.watch("worker")))
            quick = await stack.enter_async_context(aclosing(registry.watch("worker")))
            await until(slow, set())
            ids = {f"w{number}" for number in range(20)}
            for id in ids:
                await stack.enter_async_context(registry.announce(worker(id)))
            await until(quick, ids)
            snapshots = [await anext(slow)]
            while snapshots[-1].keys() != ids:
                snapshots.append(await anext(slow))
            assert len(snapshots) < len(ids) / 2

    async def test_a_silent_member_vanishes(self, open_registry: Connect, client: Client, cluster: str):
        async with open_registry() as registry, aclosing(registry.watch("worker")) as snapshots:
            await until(snapshots, set())
            key = f"/legato/{cluster}/members/worker/a"
            await client.put(key, b'{"address": "", "metadata": {}}', await client.grant(1))
            await until(snapshots, {"a"})
            await until(snapshots, set())

    @pytest.mark.parametrize("loss", ["lease", "key"])
    async def test_a_lost_announcement_is_made_again(
        self, open_registry: Connect, client: Client, cluster: str, loss: str
    ):
        key = f"/legato/{cluster}/members/worker/a"
        async with open_registry() as registry, registry.announce(worker("a")):
            entry = await client.get(key)
            assert entry is not None
            await (client.revoke(entry.lease) if loss == "lease" else client.delete(key))
            deleted, made = await first_changes(client, key, entry.mod_revision, 2)
            assert deleted.value is None
            assert made.value == entry.value

    async def test_a_foreign_record_is_ignored(self, open_registry: Connect, client: Client, cluster: str):
        await client.put(f"/legato/{cluster}/members/worker/strange", b"\xff not a record")
        async with (
            open_registry() as registry,
            registry.announce(worker("a")),
            aclosing(registry.watch("worker")) as snapshots,
        ):
            assert (await anext(snapshots)).keys() == {"a"}
