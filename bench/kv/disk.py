"""How fast the disk tier is, beside what the disk gives to plain direct I/O in the same run: python -m bench.kv.disk.

Bytes are random. The raw file is preallocated as the tier's is and moved in pieces of 4 MiB by as many threads as the
tier has; a write ends with one fdatasync. The tier writes and reads jobs of 32 MiB, two at a time, and checks sums.
"""

import argparse
import asyncio
import mmap
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.common import kv
from services.kvpool.actions import DiskBlock, ReadDisk, WriteDisk
from services.kvpool.ssd import DiskTier, opened

_MIB = 1024 * 1024
_RAW_BYTES = 4 * _MIB
_JOB_BYTES = 32 * _MIB
_JOBS_AT_ONCE = 2
_READ_THREADS = 4
_WRITE_THREADS = 2

_Job = Sequence[DiskBlock]


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes a second."""

    write: float
    read: float
    raw_write: float
    raw_read: float


async def measure(directory: Path, num_bytes: int, block_bytes: int) -> Speeds:
    """Move `num_bytes` in blocks of one shard each way. Leaves files in the directory."""
    arena = np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    arena[:] = np.frombuffer(np.random.default_rng(1).bytes(num_bytes), np.uint8)
    blocks = [
        DiskBlock(i.to_bytes(32), b"", i, start, start, (kv.checksum(arena[start : start + block_bytes]),))
        for i, start in enumerate(range(0, num_bytes - block_bytes + 1, block_bytes))
    ]
    count = max(1, _JOB_BYTES // block_bytes)
    jobs = [blocks[start : start + count] for start in range(0, len(blocks), count)]
    raw_write = await asyncio.to_thread(_raw, directory / "raw", arena, True)
    raw_read = await asyncio.to_thread(_raw, directory / "raw", arena, False)
    async with opened(directory / "tier", num_bytes, arena, _complain) as tier:
        write_seconds = await _seconds(jobs, lambda job: _write(tier, job, block_bytes))
        arena[:] = 0
        read_seconds = await _seconds(jobs, lambda job: _read(tier, job, block_bytes))
    moved = len(blocks) * block_bytes
    return Speeds(moved / write_seconds, moved / read_seconds, num_bytes / raw_write, num_bytes / raw_read)


async def _seconds(jobs: Sequence[_Job], run: Callable[[_Job], Awaitable[None]]) -> float:
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await run(job)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(_JOBS_AT_ONCE):
            tasks.create_task(work())
    return time.perf_counter() - began


async def _write(tier: DiskTier, job: _Job, block_bytes: int) -> None:
    if not all(await tier.write(WriteDisk(0, "measure", 1, block_bytes, 32, job))):
        raise OSError("the tier did not write all blocks")


async def _read(tier: DiskTier, job: _Job, block_bytes: int) -> None:
    def came(ok: list[bool], last: bool) -> None:
        if not all(ok):
            raise OSError("the tier did not read all blocks")

    await tier.read(ReadDisk(0, "measure", 1, block_bytes, job), came)


def _raw(path: Path, arena: kv.Arena, write: bool) -> float:
    """Seconds to move the whole arena."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC)
    os.posix_fallocate(file, 0, arena.nbytes)

    def move(start: int) -> int:
        part = arena.data[start : start + _RAW_BYTES]
        return os.pwritev(file, (part,), start) if write else os.preadv(file, (part,), start)

    began = time.perf_counter()
    with ThreadPoolExecutor(_WRITE_THREADS if write else _READ_THREADS) as threads:
        assert sum(threads.map(move, range(0, arena.nbytes, _RAW_BYTES))) == arena.nbytes
    os.fdatasync(file)
    seconds = time.perf_counter() - began
    os.close(file)
    return seconds


def _complain(full: bool) -> None:
    raise OSError("the disk is full" if full else "the disk does not work")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the KV pool's disk tier.")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk in question")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--block-kib", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        speeds = asyncio.run(measure(Path(directory), arguments.mib * _MIB, arguments.block_kib * 1024))
    for name, ours, raw in (("write", speeds.write, speeds.raw_write), ("read", speeds.read, speeds.raw_read)):
        print(f"{name}: {ours / 1e9:.2f} GB/s, raw {raw / 1e9:.2f} GB/s, ratio {ours / raw:.2f}")


if __name__ == "__main__":
    main()
