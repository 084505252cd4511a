"""Pools copy blocks from each other whole and right, and what is lent is always given back."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import kv
from services.kvpool.transport import Lent, Link, Peers, Pulled, Stop, choose, tcp, wire
from services.kvpool.transport.limits import LendLimits, PullLimits
from tests.kvpool.shelf import NAMESPACE, Shelf, chain, new_arena, peer_that

FAST = PullLimits(stall_seconds=2, pause_seconds=30)


async def pull(
    peers: Peers, address: str, shelf: Shelf, first: int = 0, timeout_seconds: float = 10, stride: int = 1
) -> Pulled:
    """The shelf's chain from block `first` on, to the beginning of the arena."""
    offsets = [i * stride * shelf.block_bytes for i in range(len(shelf.hashes) - first)]
    shape = (shelf.num_shards, shelf.shard_bytes)
    return await peers.pull(address, NAMESPACE, shelf.hashes, offsets, *shape, timeout_seconds)


def flat(checksums: Sequence[Sequence[int]]) -> list[int]:
    return [value for block in checksums for value in block]


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 200_000), st.integers(1, 3), st.integers(0, 11), st.integers(1, 4), st.data())
def test_blocks_arrive_as_they_were(
    num_blocks: int, shard_bytes: int, num_shards: int, first: int, num_streams: int, data: st.DataObject
) -> None:
    async def copy() -> None:
        shelf = Shelf(num_blocks, shard_bytes, num_shards)
        shelf.num_lendable = data.draw(st.integers(1, num_blocks))
        start = min(first, num_blocks - 1)
        wanted = num_blocks - start
        arena = new_arena(2 * num_blocks * shelf.block_bytes)
        slots = data.draw(st.permutations(range(2 * num_blocks)))[:wanted]
        offsets = [slot * shelf.block_bytes for slot in slots]
        told: list[tuple[int, Sequence[int]]] = []
        limits = PullLimits(num_streams=num_streams, stripe_bytes=50_000, report_bytes=100_000)
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(arena, limits) as peers:
            pulled = await peers.pull(
                *(server.address, NAMESPACE, shelf.hashes, offsets, num_shards, shard_bytes, 10),
                lambda num, sums: told.append((num, sums)),
            )
        assert (pulled.stop, pulled.num_blocks) == (Stop.COMPLETE, wanted), pulled
        assert list(pulled.checksums) == flat(shelf.checksums[start:])
        for i, offset in enumerate(offsets):
            assert arena[offset : offset + shelf.block_bytes].tobytes() == shelf.block(start + i)
        assert sum(num for num, _ in told) == wanted
        assert flat([sums for _, sums in told]) == list(pulled.checksums)
        unused = set(range(2 * num_blocks)) - set(slots)
        assert not any(arena[slot * shelf.block_bytes : (slot + 1) * shelf.block_bytes].any() for slot in unused)
        assert not shelf.held

    asyncio.run(copy())


async def test_a_prefix_comes_of_what_the_peer_has_only_in_part() -> None:
    shelf = Shelf(4, 1000)
    arena = new_arena(10_000)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(arena, FAST) as peers:
        hashes = [*shelf.hashes, *chain(3, seed=1)]
        offsets = [i * 1000 for i in range(7)]
        pulled = await peers.pull(server.address, NAMESPACE, hashes, offsets, 1, 1000, 5)
        assert (pulled.num_blocks, pulled.stop) == (4, Stop.SHORT)
        pulled = await peers.pull(server.address, NAMESPACE, chain(3, seed=2), offsets[:3], 1, 1000, 5)
        assert (pulled.num_blocks, pulled.stop) == (0, Stop.SHORT)
        assert (await pull(peers, server.address, shelf)).num_blocks == 4
        await shelf.given_back.wait()


async def test_a_chain_is_resolved() -> None:
    shelf = Shelf(5, 100)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(shelf.arena, FAST) as peers:
        tip = int.from_bytes(shelf.hashes[2][-8:], "big")
        links = await peers.resolve(server.address, NAMESPACE, tip, 3, 5)
        assert [link.hash for link in links] == shelf.hashes[:3]
        assert [link.parent for link in links] == [b"", *shelf.hashes[:2]]
        assert await peers.resolve(server.address, NAMESPACE, tip, 4, 5) == []
        assert await peers.resolve(server.address, "another", tip, 3, 5) == []
        assert len(await peers.resolve(server.address, NAMESPACE, tip, 3, 5)) == 3


async def test_wrong_bytes_at_the_source_are_found() -> None:
    shelf = Shelf(4, 5000, num_shards=2)
    arena = new_arena(4 * shelf.block_bytes)
    shelf.arena[shelf.offsets[2] + 7000] ^= 1
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(arena, FAST) as peers:
        pulled = await pull(peers, server.address, shelf)
        assert (pulled.num_blocks, pulled.stop) == (2, Stop.CORRUPT)
        assert list(pulled.checksums) == flat(shelf.checksums[:2])
        shelf.arena[shelf.offsets[2] + 7000] ^= 1
        assert (await pull(peers, server.address, shelf)).num_blocks == 4  # the peer itself is not at fault
        await shelf.given_back.wait()


async def test_what_the_peer_does_not_serve_is_refused() -> None:
    shelf = Shelf(2, 1000)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(new_arena(10_000), FAST) as peers:
        unknown = await peers.pull(server.address, "another", shelf.hashes, [0, 1000], 1, 1000, 5)
        assert unknown.stop is Stop.REFUSED
        assert "MODEL_NOT_FOUND" in unknown.detail
        assert (await peers.pull(server.address, NAMESPACE, shelf.hashes, [0], 1, 500, 5)).stop is Stop.REFUSED
        assert (await peers.pull(server.address, NAMESPACE, shelf.hashes, [0], 2, 4000, 5)).stop is Stop.REFUSED
        assert (await pull(peers, server.address, shelf)).stop is Stop.COMPLETE
        await shelf.given_back.wait()


async def test_slots_outside_the_arena_are_refused() -> None:
    async with tcp.peers(new_arena(1000), FAST) as peers:
        for offsets, num_bytes in (([0, 600], 500), ([-1], 500), ([0], 0), ([0, 0, 0], 10)):
            with pytest.raises(ValueError, match="slots"):
                await peers.pull("127.0.0.1:1", NAMESPACE, chain(2), offsets, 1, num_bytes, 1)


async def test_many_pulls_at_once() -> None:
    shelf = Shelf(32, 50_000)
    arenas = [new_arena(32 * 50_000) for _ in range(6)]
    limits = LendLimits(num_sends=2, arena_fraction=0.1)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, limits) as server:

        async def copy(arena: kv.Arena) -> None:
            async with tcp.peers(arena, PullLimits(num_streams=2, stripe_bytes=100_000, num_receives=3)) as peers:
                several = [pull(peers, server.address, shelf) for _ in range(2)]  # into the same slots, same bytes
                assert {pulled.stop for pulled in await asyncio.gather(*several)} == {Stop.COMPLETE}

        await asyncio.gather(*(copy(arena) for arena in arenas))
        assert all(
            arena[i * 50_000 : (i + 1) * 50_000].tobytes() == shelf.block(i) for arena in arenas for i in range(32)
        )
        await shelf.given_back.wait()


async def test_connections_are_used_again_and_found_dead_when_the_peer_was_restarted() -> None:
    shelf = Shelf(2, 1000)
    async with tcp.peers(new_arena(2000), PullLimits(num_streams=1)) as peers:
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, LendLimits(num_connections=1)) as server:
            for _ in range(3):
                assert (await pull(peers, server.address, shelf)).stop is Stop.COMPLETE
            port = int(server.address.rpartition(":")[2])
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", port) as server:
            assert (await pull(peers, server.address, shelf)).stop is Stop.COMPLETE


async def test_more_connections_than_allowed_are_refused() -> None:
    shelf = Shelf(2, 1000)
    limits = LendLimits(num_connections=1)
    async with (
        tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, limits) as server,
        tcp.peers(new_arena(2000), FAST) as first,
        tcp.peers(new_arena(2000), FAST) as second,
    ):
        assert (await pull(first, server.address, shelf)).stop is Stop.COMPLETE  # its connection is kept
        assert (await pull(second, server.address, shelf)).stop is Stop.REFUSED
        assert (await pull(first, server.address, shelf)).stop is Stop.COMPLETE


async def test_a_busy_peer_refuses_after_the_wait() -> None:
    class Slow(Shelf):
        async def lend(
            self,
            namespace_id: str,
            hashes: Sequence[bytes],
            first_block: int,
            wait_seconds: float,
            lease_seconds: float,
        ) -> Lent:
            entered.set()
            return await asyncio.get_running_loop().create_future()

    entered = asyncio.Event()
    shelf, slow = Shelf(2, 1000), Slow(2, 1000)
    async with (
        tcp.serve(slow, slow.arena, "127.0.0.1", 0, LendLimits(num_sends=1)) as server,
        tcp.peers(new_arena(2000), FAST) as peers,
        asyncio.TaskGroup() as tasks,
    ):
        first = tasks.create_task(pull(peers, server.address, slow))
        await entered.wait()
        assert (await pull(peers, server.address, shelf, timeout_seconds=1.5)).stop is Stop.REFUSED
        first.cancel()


@pytest.mark.parametrize("read_bytes", [0, 100_000])
async def test_what_is_lent_comes_back_when_the_reader_goes_or_stalls(read_bytes: int) -> None:
    shelf = Shelf(40, 1_000_000)
    limits = LendLimits(stall_seconds=0.3)
    request = wire.encode(wire.Read(NAMESPACE, shelf.hashes, 0, 1, 1_000_000, 1.0, 10.0))
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, limits) as server:
        host, _, port = server.address.rpartition(":")
        for goes in (True, False):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
            writer.write(request)
            await reader.readexactly(wire.HEADER_BYTES + read_bytes)
            assert shelf.held
            if goes:
                writer.transport.abort()
            await shelf.given_back.wait()
            writer.transport.abort()


async def test_a_reader_that_takes_for_ever_loses_its_lease() -> None:
    shelf = Shelf(40, 1_000_000)
    request = wire.encode(wire.Read(NAMESPACE, shelf.hashes, 0, 1, 1_000_000, 1.0, 0.2))
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server:  # its stall timeout is far away
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
        writer.write(request)
        await reader.readexactly(wire.HEADER_BYTES)
        async with asyncio.timeout(3):
            await shelf.given_back.wait()
        writer.transport.abort()


async def test_a_server_that_closes_stops_sending_and_gives_back() -> None:
    shelf = Shelf(40, 1_000_000)
    request = wire.encode(wire.Read(NAMESPACE, shelf.hashes, 0, 1, 1_000_000, 1.0, 10.0))
    async with asyncio.timeout(4):
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1000)
            writer.write(request)
            await reader.readexactly(wire.HEADER_BYTES)
        assert not shelf.held
    writer.transport.abort()


async def test_junk_costs_a_server_nothing_but_the_connection() -> None:
    shelf = Shelf(2, 1000)
    junk = random.Random(0)
    whole = wire.encode(wire.Read(NAMESPACE, shelf.hashes, 0, 1, 1000, 1.0, 10.0))
    broken = [bytes([*whole[:i], whole[i] ^ 0xFF, *whole[i + 1 :]]) for i in range(wire.HEADER_BYTES + 45)]
    answers = [wire.encode(wire.Offer(1, [1])), wire.encode(wire.Resolved(shelf.hashes))]
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, LendLimits(stall_seconds=0.3)) as server:
        host, _, port = server.address.rpartition(":")
        for data in [*broken, *answers, whole[:7], *(junk.randbytes(100) for _ in range(5))]:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            writer.write_eof()
            writer.close()
        async with tcp.peers(new_arena(2000), FAST) as peers:
            assert (await pull(peers, server.address, shelf)).stop is Stop.COMPLETE
        while shelf.held:
            await shelf.given_back.wait()


async def test_a_taken_port_is_an_error() -> None:
    shelf = Shelf(1, 10)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with tcp.serve(shelf, shelf.arena, "127.0.0.1", port):
                pass


async def test_a_source_that_fails_does_not_take_the_server_with_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Shelf):
        async def resolve(self, namespace_id: str, tip: int, num_blocks: int) -> list[Link]:
            raise RuntimeError("a bug")

    shelf = Broken(1, 10)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(new_arena(10), FAST) as peers:
        assert await peers.resolve(server.address, NAMESPACE, 1, 1, 5) == []
        async with tcp.peers(new_arena(10), FAST) as others:
            assert (await pull(others, server.address, shelf)).stop is Stop.COMPLETE
    assert "a bug" in caplog.text


async def test_pulls_wait_no_longer_than_they_may_for_a_peer_that_is_silent() -> None:
    async def be_silent(*_: object) -> None:
        await asyncio.Event().wait()

    async with peer_that(be_silent) as address, tcp.peers(new_arena(2000), PullLimits(num_receives=1)) as peers:
        shelf = Shelf(2, 1000)
        pulls = [pull(peers, address, shelf, timeout_seconds=0.2) for _ in range(3)]
        async with asyncio.timeout(1):
            assert {pulled.stop for pulled in await asyncio.gather(*pulls)} <= {Stop.STALLED, Stop.PAUSED}


def test_transports_are_chosen_by_name() -> None:
    assert choose("tcp") is choose("auto")
    for name in ("pigeon", "mooncake"):
        with pytest.raises(ValueError, match="known: auto, tcp"):
            choose(name)
