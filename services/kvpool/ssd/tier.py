"""The disk tier, as the pool's shell uses it: blocks are written, read and forgotten by jobs of the core.

Bytes move in a few threads, reads in other ones than writes, for calls wait for reads. A written block is reported when
it is durable: jobs that end while the disk is being synced share the next sync. Failures are results: a block that
could not be moved, or came back with a wrong checksum, is told as such, and `failed` hears when the disk is full or
has to be given up. After that everything fails at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.kvpool.actions import DiskBlock, ForgetDisk, ReadDisk, WriteDisk
from services.kvpool.events import DiskEntry
from services.kvpool.ssd.data import FULL, DataFile
from services.kvpool.ssd.index import Index
from services.kvpool.ssd.runs import CALL_BYTES

_log = logging.getLogger(__name__)

_READ_THREADS = 4
_WRITE_THREADS = 2
_MOST_BAD_READS = 16
"""So many blocks in a row that the disk cannot read: it is broken. Single ones are bad sectors."""
_FORGOTTEN_AT_ONCE = 4096
"""Places that are forgotten are struck with the next blocks that are written, or when there are so many."""


@dataclass(slots=True)
class DiskCounts:
    """Since the start."""

    read_bytes: int = 0
    read_seconds: float = 0.0
    """Of jobs, waiting for threads included."""
    written_bytes: int = 0
    corrupt_blocks: int = 0
    unreadable_blocks: int = 0


@dataclass(slots=True)
class _Batch:
    """What the next sync makes durable."""

    forgotten: list[int] = field(default_factory=list[int])
    entries: list[DiskEntry] = field(default_factory=list[DiskEntry])
    done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class DiskTier:
    """An open tier. Methods are called on the event loop."""

    def __init__(self, data: DataFile, index: Index, failed: Callable[[bool], None]) -> None:
        self.num_bytes = data.num_bytes
        self.direct = data.direct
        self.counts = DiskCounts()
        self._data = data
        self._index = index
        self._failed = failed
        self._usable = True
        self._num_bad_reads = 0
        self._next = _Batch()
        self._pending = asyncio.Event()
        self._reads = ThreadPoolExecutor(_READ_THREADS, "read disk")
        self._writes = ThreadPoolExecutor(_WRITE_THREADS, "write disk")
        self._syncs = ThreadPoolExecutor(1, "sync disk")

    def restored(self) -> Sequence[DiskEntry]:
        """What the tier held when it was opened; handed over once."""
        entries, self._index.entries = self._index.entries, []
        return entries

    async def write(self, job: WriteDisk) -> list[bool]:
        """Write the job's blocks; for each, whether it is durable and will be found again."""
        size = job.num_shards * job.shard_bytes
        blocks = sorted(job.blocks, key=lambda block: block.disk_offset)
        loop, write = asyncio.get_running_loop(), self._data.write
        parts = _parts(blocks, size) if self._usable else []
        moves = [loop.run_in_executor(self._writes, write, part, size) for part in parts]
        errors = [error for move in moves for error in await move]
        self._judge_writes(errors)
        good = {id(block) for block, error in zip(blocks, errors, strict=False) if error is None}
        entries = [_entry(job, block) for block in job.blocks if id(block) in good]
        if entries and await self._durable(entries):
            self.counts.written_bytes += len(entries) * size
        else:
            good.clear()
        return [id(block) in good for block in job.blocks]

    async def read(self, job: ReadDisk, came: Callable[[list[bool], bool], None]) -> None:
        """Read the job's blocks into the arena. `came` is told of the next ones, in order, whether they are right, and
        with the last whether these are all."""
        size = job.num_shards * job.shard_bytes
        loop = asyncio.get_running_loop()
        parts = _parts(job.blocks, size)
        if not self._usable:
            came([False] * len(job.blocks), True)
            return
        began = loop.time()
        moves = [loop.run_in_executor(self._reads, self._read, part, job.shard_bytes, size) for part in parts]
        for index, move in enumerate(moves):
            ok, num_unreadable = await move
            self.counts.read_bytes += sum(ok) * size
            self.counts.unreadable_blocks += num_unreadable
            self.counts.corrupt_blocks += len(ok) - sum(ok) - num_unreadable
            self._num_bad_reads = self._num_bad_reads + num_unreadable if num_unreadable == len(ok) else 0
            if self._num_bad_reads >= _MOST_BAD_READS:
                self._give_up("it cannot be read")
            last = index == len(moves) - 1
            if last:
                self.counts.read_seconds += loop.time() - began
            came(ok, last)

    def forget(self, job: ForgetDisk) -> None:
        """Strike places: before anything that is written there from now on is put down."""
        self._next.forgotten += job.offsets
        if len(self._next.forgotten) >= _FORGOTTEN_AT_ONCE:
            self._pending.set()

    async def run(self) -> None:
        """Sync whenever there is something to; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._pending.wait()
            self._pending.clear()
            batch, self._next = self._next, _Batch()
            error = await loop.run_in_executor(self._syncs, self._sync, batch)
            if error is not None:
                # Nothing of the batch is in the log: what was to be struck still is.
                self._next.forgotten = batch.forgotten + self._next.forgotten
                if error.errno in FULL:
                    self._full(error)
                else:
                    self._give_up(str(error))
            if not batch.done.done():
                batch.done.set_result(error is None)

    async def close(self) -> None:
        """Let transfers that are under way end. Nothing touches the arena or the files any more."""
        for threads in (self._reads, self._writes, self._syncs):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
        if self._usable and self._next.forgotten:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._index.commit, self._next.forgotten, ())
        self._index.close()
        self._data.close()

    async def _durable(self, entries: list[DiskEntry]) -> bool:
        if not self._usable:
            return False
        batch = self._next
        batch.entries += entries
        self._pending.set()
        return await asyncio.shield(batch.done)  # others wait for it too

    def _sync(self, batch: _Batch) -> OSError | None:
        """In the sync thread."""
        try:
            if batch.entries:
                self._data.sync()
            self._index.commit(batch.forgotten, batch.entries)
        except OSError as error:
            return error
        with contextlib.suppress(OSError):  # a full disk; the log goes on as it is
            self._index.compact()
        return None

    def _read(self, blocks: Sequence[DiskBlock], shard_bytes: int, size: int) -> tuple[list[bool], int]:
        """In a read thread: which blocks are right, and how many could not be read at all."""
        errors = self._data.read(blocks, size)
        ok = [
            error is None and self._data.right(block, shard_bytes) for block, error in zip(blocks, errors, strict=True)
        ]
        return ok, sum(error is not None for error in errors)

    def _judge_writes(self, errors: Sequence[OSError | None]) -> None:
        found = [error for error in errors if error is not None]
        broken = next((error for error in found if error.errno not in FULL), None)
        if broken is not None:
            self._give_up(str(broken))
        elif found:
            self._full(found[0])

    def _full(self, error: OSError) -> None:
        _log.warning("the disk tier cannot be written: %s", error)
        if self._usable:
            self._failed(True)

    def _give_up(self, why: str) -> None:
        if self._usable:
            _log.error("the disk tier is given up: %s", why)
            self._usable = False
            self._failed(False)


def _parts(blocks: Sequence[DiskBlock], size: int) -> list[Sequence[DiskBlock]]:
    """Cut so that several threads have something to do."""
    count = max(1, CALL_BYTES // size)
    return [blocks[start : start + count] for start in range(0, len(blocks), count)]


def _entry(job: WriteDisk, block: DiskBlock) -> DiskEntry:
    return DiskEntry(
        job.namespace_id,
        job.num_shards,
        job.shard_bytes,
        job.block_tokens,
        block.key,
        block.parent,
        block.position,
        block.disk_offset,
        block.checksums,
    )
