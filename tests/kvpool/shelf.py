"""A source of blocks for the transport's tests, and peers that do wrong."""

import asyncio
import contextlib
import mmap
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import numpy as np

from services.common import kv
from services.common.errors import Failure, Reason
from services.kvpool.transport import Lent, Link, wire

NAMESPACE = "0123456789abcdef"


def new_arena(num_bytes: int) -> kv.Arena:
    return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)


def chain(num_blocks: int, seed: int = 0) -> list[bytes]:
    return [random.Random(f"{seed}/{i}").randbytes(kv.HASH_BYTES) for i in range(num_blocks)]


class Shelf:
    """A chain of random blocks, at shuffled places of an arena."""

    def __init__(self, num_blocks: int, shard_bytes: int, num_shards: int = 1, seed: int = 0) -> None:
        self.hashes = chain(num_blocks, seed)
        self.num_shards = num_shards
        self.shard_bytes = shard_bytes
        self.block_bytes = num_shards * shard_bytes
        self.arena = new_arena(max(1, 2 * num_blocks * self.block_bytes))
        self.arena[:] = np.random.default_rng(seed).integers(0, 256, self.arena.nbytes, np.uint8)
        places = random.Random(seed).sample(range(2 * num_blocks), num_blocks)
        self.offsets = [place * self.block_bytes for place in places]
        self.checksums = [self._checksums(offset) for offset in self.offsets]
        self.num_lendable = num_blocks
        """Blocks of the chain that one `lend` gives at most."""
        self.num_lends = 0
        self.held: list[Lent] = []
        self.given_back = asyncio.Event()
        """Set when nothing is held any more."""

    def block(self, i: int) -> bytes:
        return self.arena[self.offsets[i] : self.offsets[i] + self.block_bytes].tobytes()

    async def lend(
        self, namespace_id: str, hashes: Sequence[bytes], first_block: int, wait_seconds: float, lease_seconds: float
    ) -> Lent:
        await asyncio.sleep(0)
        if namespace_id != NAMESPACE:
            raise Failure(Reason.MODEL_NOT_FOUND, "unknown namespace")
        end = first_block
        while end < min(len(hashes), len(self.hashes)) and hashes[end] == self.hashes[end]:
            end += 1
        end = min(end, first_block + self.num_lendable)
        checksums = [value for block in self.checksums[first_block:end] for value in block]
        self.num_lends += 1
        shape = (self.num_shards, self.shard_bytes)
        lent = Lent(f"lease-{self.num_lends}", *shape, self.offsets[first_block:end], checksums)
        self.held.append(lent)
        self.given_back.clear()
        return lent

    def give_back(self, lent: Lent) -> None:
        self.held.remove(lent)
        if not self.held:
            self.given_back.set()

    async def resolve(self, namespace_id: str, tip: int, num_blocks: int) -> list[Link]:
        if namespace_id != NAMESPACE:
            raise Failure(Reason.MODEL_NOT_FOUND, "unknown namespace")
        hashes = self.hashes[:num_blocks]
        if len(hashes) < num_blocks or int.from_bytes(hashes[-1][-8:], "big") != tip:
            return []
        return [Link(*link) for link in zip(hashes, [b"", *hashes], strict=False)]

    def _checksums(self, offset: int) -> list[int]:
        starts = range(offset, offset + self.block_bytes, self.shard_bytes)
        return [kv.checksum(self.arena[start : start + self.shard_bytes]) for start in starts]


Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer_that(behave: Behave) -> AsyncGenerator[str]:
    """The address of a peer that answers each connection as told, until the context is left."""
    async with asyncio.TaskGroup() as tasks:

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await behave(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.transport.abort()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            running.append(tasks.create_task(converse(reader, writer)))

        running: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in running:
                task.cancel()


async def read_request(reader: asyncio.StreamReader) -> wire.Frame:
    kind, num_bytes = wire.decode_header(await reader.readexactly(wire.HEADER_BYTES))
    return wire.decode(kind, await reader.readexactly(num_bytes))
