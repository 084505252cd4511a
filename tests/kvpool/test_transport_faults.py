"""A peer that fails or lies costs a bounded wait and nothing else; once a pull is over nothing writes to the arena."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from services.common import kv
from services.kvpool.transport import Peers, Pulled, Stop, tcp, wire
from services.kvpool.transport.limits import PullLimits
from tests.kvpool.shelf import NAMESPACE, Behave, Shelf, new_arena, peer_that, read_request

BLOCK = 100_000
POISON = 0xEE
LIMITS = PullLimits(num_streams=1, stall_seconds=0.3, pause_seconds=30)


def truth(shelf: Shelf, num_blocks: int | None = None) -> bytes:
    """An honest offer, without the bytes."""
    num_blocks = len(shelf.hashes) if num_blocks is None else num_blocks
    checksums = [value for block in shelf.checksums[:num_blocks] for value in block]
    return wire.encode(wire.Offer(num_blocks, checksums))


def saying(*parts: bytes, then_close: bool = True) -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in parts:
            writer.write(part)
        await writer.drain()
        if then_close:
            writer.write_eof()
        await reader.read()  # until the other side closes

    return behave


async def pull(peers: Peers, address: str, shelf: Shelf, timeout_seconds: float = 5) -> Pulled:
    offsets = [i * shelf.block_bytes for i in range(len(shelf.hashes))]
    shape = (shelf.num_shards, shelf.shard_bytes)
    return await peers.pull(address, NAMESPACE, shelf.hashes, offsets, *shape, timeout_seconds)


async def outcome(behave: Behave, shelf: Shelf, timeout_seconds: float = 5) -> tuple[Stop, int]:
    """What comes of a pull from that peer, which ends within the timeout; the address is left alone afterwards."""
    arena = new_arena(len(shelf.hashes) * shelf.block_bytes)
    async with peer_that(behave) as address, tcp.peers(arena, LIMITS) as peers:
        started = time.monotonic()
        pulled = await pull(peers, address, shelf, timeout_seconds)
        assert time.monotonic() - started < timeout_seconds + 1
        again = await pull(peers, address, shelf)
        if pulled.stop in (Stop.UNREACHABLE, Stop.BROKEN, Stop.STALLED, Stop.NONSENSE):
            assert again.stop is Stop.PAUSED
        else:
            assert again.stop is not Stop.PAUSED
    for i in range(pulled.num_blocks):
        assert arena[i * shelf.block_bytes : (i + 1) * shelf.block_bytes].tobytes() == shelf.block(i)
    return pulled.stop, pulled.num_blocks


HEADER = wire.encode(wire.Offer(0, []))[: wire.HEADER_BYTES]
NONSENSE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another version": HEADER[:4] + b"\x02" + HEADER[5:] + bytes(4),
    "an unknown kind": HEADER[:5] + b"\x63" + HEADER[6:] + bytes(4),
    "a payload of 4 GiB": HEADER[:8] + b"\xff\xff\xff\xff",
    "an answer to something else": wire.encode(wire.Resolved([])),
    "a request": wire.encode(wire.Resolve("x", 1, 1, 1.0)),
    "more blocks than asked": wire.encode(wire.Offer(4, [0] * 4)),
    "four thousand million blocks": wire.encode(wire.Offer(2**32 - 1, [])),
    "too few checksums": wire.encode(wire.Offer(3, [0, 0])),
    "too many checksums": wire.encode(wire.Offer(1, [0, 0])),
    "half a checksum": HEADER[:8] + (8).to_bytes(4, "big") + bytes(8),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_is_recognised(answer: bytes) -> None:
    assert await outcome(saying(answer, then_close=False), Shelf(3, BLOCK)) == (Stop.NONSENSE, 0)


@pytest.mark.parametrize("num_bytes", [0, 5, wire.HEADER_BYTES, wire.HEADER_BYTES + 10])
async def test_an_answer_that_is_cut_off(num_bytes: int) -> None:
    shelf = Shelf(3, BLOCK)
    assert await outcome(saying(truth(shelf)[:num_bytes]), shelf) == (Stop.BROKEN, 0)
    assert await outcome(saying(truth(shelf)[:num_bytes], then_close=False), shelf) == (Stop.STALLED, 0)


@pytest.mark.parametrize("num_blocks", [0.0, 0.5, 1.0, 2.5])
async def test_blocks_that_are_cut_off(num_blocks: float) -> None:
    shelf = Shelf(3, 1_200_000)  # each is received and checked by itself
    data = b"".join(shelf.block(i) for i in range(3))[: int(num_blocks * shelf.block_bytes)]
    assert await outcome(saying(truth(shelf), data), shelf) == (Stop.BROKEN, int(num_blocks))
    assert await outcome(saying(truth(shelf), data, then_close=False), shelf) == (Stop.STALLED, int(num_blocks))


async def test_wrong_bytes_and_wrong_checksums() -> None:
    shelf = Shelf(3, BLOCK)
    data = [shelf.block(0), shelf.block(1), bytes(BLOCK)]
    assert await outcome(saying(truth(shelf), *data), shelf) == (Stop.CORRUPT, 2)
    swapped = wire.encode(wire.Offer(3, [shelf.checksums[i][0] for i in (1, 0, 2)]))
    assert await outcome(saying(swapped, *(shelf.block(i) for i in range(3))), shelf) == (Stop.CORRUPT, 0)


async def test_a_peer_that_accepts_and_never_answers() -> None:
    assert await outcome(saying(then_close=False), Shelf(1, 10), timeout_seconds=0.3) == (Stop.STALLED, 0)


async def test_a_peer_that_is_not_there() -> None:
    async with peer_that(saying()) as address:
        pass
    async with tcp.peers(new_arena(100), LIMITS) as peers:
        assert (await pull(peers, address, Shelf(1, 10))).stop is Stop.UNREACHABLE
        assert (await pull(peers, address, Shelf(1, 10))).stop is Stop.PAUSED
        assert await peers.resolve(address, NAMESPACE, 1, 1, 5) == []
        for nowhere in ("", "no port", "127.0.0.1:x", "127.0.0.1:99999", "name.invalid:80"):
            assert (await pull(peers, nowhere, Shelf(1, 10))).stop is Stop.UNREACHABLE


async def test_a_pause_ends() -> None:
    shelf = Shelf(1, 10)
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server:
        address = server.address
    async with tcp.peers(new_arena(100), PullLimits(pause_seconds=0.05)) as peers:
        assert (await pull(peers, address, shelf)).stop is Stop.UNREACHABLE
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", int(address.rpartition(":")[2])), asyncio.timeout(5):
            while (await pull(peers, address, shelf)).stop is Stop.PAUSED:  # noqa: ASYNC110 (what is tested is time)
                await asyncio.sleep(0.01)
            assert (await pull(peers, address, shelf)).stop is Stop.COMPLETE


@pytest.mark.parametrize("kind", [*sorted(NONSENSE.keys() - {"an answer to something else"}), "nothing", "a part"])
async def test_a_chain_is_not_resolved_by_such_peers(kind: str) -> None:
    answer = {**NONSENSE, "nothing": b"", "a part": HEADER[:3]}[kind]
    async with peer_that(saying(answer)) as address, tcp.peers(new_arena(100), LIMITS) as peers:
        assert await peers.resolve(address, NAMESPACE, 1, 1, 0.5) == []
        assert (await pull(peers, address, Shelf(1, 10))).stop is Stop.PAUSED


class Dribbler:
    """A peer that goes on sending, bit by bit and honestly, until it cannot any more."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.sending = asyncio.Event()
        self.cut_off = asyncio.Event()

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert isinstance(request, wire.Read)
        share = request.share(len(self.shelf.hashes))
        writer.write(wire.encode(wire.Offer(len(self.shelf.hashes), [self.shelf.checksums[i][0] for i in share])))
        data = b"".join(self.shelf.block(i) for i in share)
        try:
            for start in range(0, len(data), 5000):
                writer.write(data[start : start + 5000])
                await writer.drain()
                self.sending.set()
                await asyncio.sleep(0.01)  # slow, that is what it is
        except ConnectionError:
            self.cut_off.set()


@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_nothing_is_written_after_a_pull_is_over(num_streams: int, cancelled: bool) -> None:
    shelf = Shelf(20, 1_500_000)
    arena = new_arena(20 * shelf.block_bytes)
    dribbler = Dribbler(shelf)
    limits = PullLimits(num_streams=num_streams, stripe_bytes=2_000_000, stall_seconds=5)
    async with peer_that(dribbler.behave) as address, tcp.peers(arena, limits) as peers, asyncio.timeout(10):
        if cancelled:
            task = asyncio.create_task(pull(peers, address, shelf))
            await dribbler.sending.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            pulled = await pull(peers, address, shelf, timeout_seconds=0.3)
            assert (pulled.stop, pulled.num_blocks) == (Stop.STALLED, 0)
        arena[:] = POISON
        await dribbler.cut_off.wait()
    assert (arena == POISON).all()


async def test_what_came_before_the_time_was_over_counts() -> None:
    shelf = Shelf(20, 200_000)
    arena = new_arena(20 * shelf.block_bytes)
    told: list[int] = []

    def came(num_blocks: int, checksums: Sequence[int]) -> None:
        assert len(checksums) == num_blocks
        told.append(num_blocks)

    dribbler = Dribbler(shelf)
    limits = PullLimits(num_streams=1, report_bytes=1)
    offsets = [i * shelf.block_bytes for i in range(20)]
    async with peer_that(dribbler.behave) as address, tcp.peers(arena, limits) as peers, asyncio.timeout(20):
        timeout_seconds = 3.0  # five blocks, received and checked at a time, take half a second at least
        pulled = await peers.pull(address, NAMESPACE, shelf.hashes, offsets, 1, 200_000, timeout_seconds, came)
        arena[:] = POISON
    assert pulled.stop in (Stop.LATE, Stop.COMPLETE)
    assert sum(told) == pulled.num_blocks > 0
    assert list(pulled.checksums) == [block[0] for block in shelf.checksums[: pulled.num_blocks]]


async def test_one_stream_that_fails_ends_the_others() -> None:
    shelf = Shelf(20, 1_000_000)
    arena = new_arena(20 * shelf.block_bytes)
    others: list[asyncio.Event] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert isinstance(request, wire.Read)
        share = request.share(20)
        checksums = [shelf.checksums[i][0] for i in share]
        writer.write(wire.encode(wire.Offer(20, checksums)) + shelf.block(share[0]))
        await writer.drain()
        if request.stream == 2:
            writer.transport.abort()
        else:
            others.append(ended := asyncio.Event())
            await reader.read()
            ended.set()

    limits = PullLimits(num_streams=3, stripe_bytes=2_000_000, stall_seconds=20)
    async with peer_that(behave) as address, tcp.peers(arena, limits) as peers, asyncio.timeout(5):
        pulled = await pull(peers, address, shelf, timeout_seconds=20)
        arena[:] = POISON
        assert (pulled.stop, pulled.num_blocks <= 1) == (Stop.BROKEN, True)
        for ended in others:
            await ended.wait()
    assert (arena == POISON).all()


async def test_a_bug_in_who_is_told_is_not_a_peers_failure() -> None:
    shelf = Shelf(2, 1000)
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def came(num_blocks: int, checksums: Sequence[int]) -> None:
        raise RuntimeError("a bug")

    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0) as server, tcp.peers(new_arena(2000), LIMITS) as peers:
        pulled = await peers.pull(server.address, NAMESPACE, shelf.hashes, [0, 1000], 1, 1000, 5, came)
    assert pulled.num_blocks == 2
    assert len(errors) == 1


def test_checksums_are_those_of_the_pool() -> None:
    shelf = Shelf(1, 1000, num_shards=2)
    shard = shelf.arena[shelf.offsets[0] + 1000 : shelf.offsets[0] + 2000]
    assert shelf.checksums[0][1] == kv.checksum(shard)
