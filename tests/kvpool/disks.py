"""Blocks for the disk tier, and disks that fail."""

import errno
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from services.common import kv
from services.kvpool.actions import DiskBlock, ReadDisk, WriteDisk
from services.kvpool.events import DiskEntry
from services.kvpool.ssd import DiskTier
from services.kvpool.ssd.calls import Calls

SLOT = 4096
NUM_SHARDS = 2


def memory(num_bytes: int) -> kv.Arena:
    """An arena of random bytes, aligned as the real one is."""
    arena = np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    arena[:] = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, np.uint8)
    return arena


def block(arena: kv.Arena, index: int, disk_offset: int, num_bytes: int = SLOT, key: int | None = None) -> DiskBlock:
    """The block that begins at `index` slots of the arena, with right checksums."""
    slot_bytes = -(-num_bytes // SLOT) * SLOT
    start, shard_bytes = index * slot_bytes, num_bytes // NUM_SHARDS
    sums = [kv.checksum(arena[start + i * shard_bytes : start + (i + 1) * shard_bytes]) for i in range(NUM_SHARDS)]
    name = index if key is None else key
    parent = b"" if not index else bytes([1]) + (name - 1).to_bytes(31, "big")
    return DiskBlock(bytes([1]) + name.to_bytes(31, "big"), parent, index, start, disk_offset, sums)


def write_job(blocks: Sequence[DiskBlock], num_bytes: int = SLOT) -> WriteDisk:
    return WriteDisk(1, "n" * 16, NUM_SHARDS, num_bytes // NUM_SHARDS, 32, blocks)


def read_job(blocks: Sequence[DiskBlock], num_bytes: int = SLOT) -> ReadDisk:
    return ReadDisk(2, "n" * 16, NUM_SHARDS, num_bytes // NUM_SHARDS, blocks)


async def read(tier: DiskTier, blocks: Sequence[DiskBlock], num_bytes: int = SLOT) -> list[bool]:
    """Which of them came back right; the last news, and it alone, must say that it is the last."""
    ok: list[bool] = []
    lasts: list[bool] = []

    def came(news: list[bool], last: bool) -> None:
        ok.extend(news)
        lasts.append(last)

    await tier.read(read_job(blocks, num_bytes), came)
    assert lasts == [False] * (len(lasts) - 1) + [True]
    return ok


def found(entry: DiskEntry, arena_offset: int) -> DiskBlock:
    """A restored block, to be read to an offset."""
    return DiskBlock(entry.key, entry.parent, entry.position, arena_offset, entry.offset, entry.checksums)


class FailingCalls(Calls):
    """Calls that fail while their name is in `errors`."""

    def __init__(self, **errors: int) -> None:
        self.errors = errors
        self.bad_offset: int | None = None
        """Reading there fails."""
        self.num_reads = 0
        self.num_syncs = 0

    def preadv(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.num_reads += 1
        if self.bad_offset is not None and offset <= self.bad_offset < offset + sum(map(len, buffers)):
            raise OSError(errno.EIO, "bad sector")
        return self._call("preadv", super().preadv, file, buffers, offset)

    def pwritev(self, file: int, buffers: Sequence[memoryview], offset: int) -> int:
        return self._call("pwritev", super().pwritev, file, buffers, offset)

    def append(self, file: int, data: bytes, offset: int) -> None:
        if "append" in self.errors:
            super().append(file, data[: len(data) // 2], offset)
        self._call("append", super().append, file, data, offset)

    def fdatasync(self, file: int) -> None:
        self.num_syncs += 1
        self._call("fdatasync", super().fdatasync, file)

    def allocate(self, file: int, num_bytes: int) -> None:
        self._call("allocate", super().allocate, file, num_bytes)

    def _call(self, name: str, call: Callable[..., Any], *arguments: object) -> Any:
        if name in self.errors:
            raise OSError(self.errors[name], f"no {name}")
        return call(*arguments)
