"""The shared memory: what others can map, what is left behind, and what there is too little of."""

import asyncio
import mmap
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.common import kv
from services.common.config import KVPoolSection, SettingsError
from services.kvpool import arena

MIB = 1024 * 1024

_POOL = """
import asyncio
from services.common.config import KVPoolSection
from services.kvpool import arena

async def main():
    async with arena.create(KVPoolSection(dram_bytes=8 << 20), "c", "p") as made:
        made.data[:] = 7
        print(made.path, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def section(**values: object) -> KVPoolSection:
    return KVPoolSection.model_validate({"dram_bytes": 8 * MIB, **values})


async def test_a_second_mapping_sees_what_was_written_and_nothing_is_left() -> None:
    async with arena.create(section(), "c", "second") as made:
        other = kv.map_arena(made.path, made.num_bytes)
        other[5 * MIB] = 42
        assert made.data[5 * MIB] == 42
        assert made.num_bytes == 8 * MIB
        assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o600
    assert not Path(made.path).exists()  # noqa: ASYNC240 (shared memory)
    assert other[5 * MIB] == 0  # its memory is free, though it is still mapped


async def test_all_of_it_is_taken_at_the_start() -> None:
    async with arena.create(section(dram_bytes=8 * MIB + 1), "c", "taken") as made:
        assert made.num_bytes == 8 * MIB + mmap.PAGESIZE
        assert os.stat(made.path).st_blocks * 512 == made.num_bytes


def killed_pool() -> tuple[Path, kv.Arena]:
    """What a pool left, and its memory as a worker has it that does not know yet."""
    with subprocess.Popen([sys.executable, "-c", _POOL], stdout=subprocess.PIPE, text=True) as pool:
        assert pool.stdout is not None
        path = pool.stdout.readline().strip()
        mapped = kv.map_arena(path, 8 * MIB)
        pool.send_signal(signal.SIGKILL)
    return Path(path), mapped


async def test_a_killed_pool_leaves_a_file_that_the_next_one_takes_back() -> None:
    path, mapped = killed_pool()
    assert path.exists()
    assert mapped[MIB] == 7
    async with arena.create(section(), "c", "another"):
        assert not path.exists()
        assert mapped[MIB] == 0  # its memory is free, though it is still mapped


async def test_a_live_pool_keeps_its_file() -> None:
    async with arena.create(section(), "c", "twice") as first, arena.create(section(), "c", "twice") as second:
        assert first.arena_id != second.arena_id
        assert kv.map_arena(first.path, 8 * MIB).nbytes == 8 * MIB


async def test_more_than_there_is_is_refused_before_it_is_touched() -> None:
    room = os.statvfs(arena.SHARED_MEMORY)
    wanted = (room.f_bavail + 1000) * room.f_frsize
    with pytest.raises(SettingsError, match=r"kvpool\.dram_bytes: \d+ bytes .* has room for"):
        await made_with(section(dram_bytes=wanted))


async def test_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"kvpool\.numa_node: no memory of node 900"):
        await made_with(section(numa_node=900))


async def test_memory_can_be_had_of_one_node() -> None:
    await made_with(section(numa_node=0))


async def test_huge_pages_that_the_kernel_does_not_have_are_refused() -> None:
    if int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text()) >= 4:  # noqa: ASYNC240
        pytest.skip("there are huge pages here")
    with pytest.raises(SettingsError, match=r"kvpool\.huge_pages"):
        await made_with(section(huge_pages="always"))


async def test_the_loop_runs_while_memory_is_taken() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await made_with(section(dram_bytes=256 * MIB))
    counting.cancel()
    assert turns > 10


async def made_with(values: KVPoolSection) -> None:
    """Make an arena, and remove it."""
    async with arena.create(values, "c", "other"):
        pass
