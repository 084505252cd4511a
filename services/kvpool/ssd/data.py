"""The disk tier's data: one preallocated file; bytes go straight between it and the arena.

Direct I/O is used where the file system has it and a block is aligned: the page cache would hold a second copy of what
the arena holds. A block is then moved up to the next multiple of 4096, which its slots have room for on both sides. All
methods block; they may run in several threads.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from services.common import kv
from services.common.config import SettingsError
from services.kvpool.actions import DiskBlock
from services.kvpool.ssd.calls import Calls
from services.kvpool.ssd.runs import ALIGN_BYTES, Place, behind, buffers, runs

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""No room, while the disk itself works."""

_Call = Callable[[int, Sequence[memoryview], int], int]


class DataFile:
    """The file, open."""

    def __init__(self, path: Path, num_bytes: int, arena: kv.Arena, calls: Calls) -> None:
        """Takes all of the room. Raises SettingsError where there is too little, OSError when the file cannot be
        opened."""
        self.num_bytes = num_bytes // ALIGN_BYTES * ALIGN_BYTES
        self._arena = arena
        self._calls = calls
        self._buffered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._allocate(path)
        except BaseException:
            os.close(self._buffered)
            raise
        try:
            self._direct = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:  # a file system without direct I/O
            self._direct = -1

    @property
    def direct(self) -> bool:
        """The file system has direct I/O."""
        return self._direct >= 0

    def write(self, blocks: Sequence[DiskBlock], num_bytes: int) -> list[OSError | None]:
        """Write blocks of `num_bytes` each; for each, what went wrong."""
        return self._move(self._calls.pwritev, blocks, num_bytes)

    def read(self, blocks: Sequence[DiskBlock], num_bytes: int) -> list[OSError | None]:
        """Read blocks of `num_bytes` each; for each, what went wrong. What came may be anything: see `right`."""
        return self._move(self._calls.preadv, blocks, num_bytes)

    def right(self, block: DiskBlock, shard_bytes: int) -> bool:
        """Whether the block's bytes in the arena have its checksums."""
        starts = (block.arena_offset + shard * shard_bytes for shard in range(len(block.checksums)))
        sums = (kv.checksum(self._arena[start : start + shard_bytes]) for start in starts)
        return all(found == wanted for found, wanted in zip(sums, block.checksums, strict=True))

    def sync(self) -> None:
        """Make what was written durable. Raises OSError: what is on disk is not known then."""
        self._calls.fdatasync(self._buffered)

    def close(self) -> None:
        os.close(self._buffered)
        if self.direct:
            os.close(self._direct)

    def _allocate(self, path: Path) -> None:
        before, room = os.fstat(self._buffered), os.statvfs(path)
        free_bytes = room.f_bavail * room.f_frsize
        try:
            if self.num_bytes - before.st_blocks * 512 > free_bytes:  # allocation would fill the disk, then fail
                raise OSError(errno.ENOSPC, f"{free_bytes} bytes are free")
            self._calls.allocate(self._buffered, self.num_bytes)
            os.ftruncate(self._buffered, self.num_bytes)  # it may have been longer
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._buffered, min(before.st_size, self.num_bytes))
            if error.errno not in FULL:
                raise
            raise SettingsError(
                f"kvpool.ssd_bytes: {self.num_bytes} bytes are not to be had in {path.parent}: {error.strerror}"
            ) from None

    def _move(self, call: _Call, blocks: Sequence[DiskBlock], num_bytes: int) -> list[OSError | None]:
        errors: list[OSError | None] = [None] * len(blocks)
        for run in runs(self._place(index, block, num_bytes) for index, block in enumerate(blocks)):
            if self._moved(call, run) is not None:
                for place in run:  # one by one: only what is bad is to be lost
                    errors[place.index] = self._moved(call, (place,))
        return errors

    def _place(self, index: int, block: DiskBlock, num_bytes: int) -> Place:
        slot_bytes = -(-num_bytes // ALIGN_BYTES) * ALIGN_BYTES
        whole = Place(index, block.arena_offset, block.disk_offset, slot_bytes)
        fits = block.arena_offset + slot_bytes <= len(self._arena) and block.disk_offset + slot_bytes <= self.num_bytes
        return whole if fits and whole.aligned else Place(index, block.arena_offset, block.disk_offset, num_bytes)

    def _moved(self, call: _Call, run: Sequence[Place]) -> OSError | None:
        """Move neighbours; what went wrong."""
        direct = self.direct and all(place.aligned for place in run)
        error = self._transferred(call, self._direct if direct else self._buffered, run)
        if direct and error is not None and error.errno == errno.EINVAL:  # a disk that wants more than 4096
            error = self._transferred(call, self._buffered, run)
        return error

    def _transferred(self, call: _Call, file: int, run: Sequence[Place]) -> OSError | None:
        offset, left = run[0].disk_offset, buffers(self._arena.data, run)
        try:
            while left:
                count = call(file, left, offset)
                if not count:
                    return OSError(errno.EIO, "the file is too short")
                offset += count
                left = behind(left, count)
        except OSError as error:
            return error
        return None
