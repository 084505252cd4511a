"""The disk tier: what was written is found again, and what is wrong is never taken for right."""

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import kv
from services.common.config import SettingsError
from services.kvpool.actions import DiskBlock, ForgetDisk
from services.kvpool.events import DiskEntry
from services.kvpool.ssd import DiskTier, opened, record
from services.kvpool.ssd.calls import Calls
from tests.kvpool.disks import SLOT, FailingCalls, block, found, memory, read, write_job

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]


@pytest.fixture
def arena() -> kv.Arena:
    return memory(4 * MIB)


@asynccontextmanager
async def tier(
    directory: Path, arena: kv.Arena, num_bytes: int = 4 * MIB, calls: Calls | None = None
) -> AsyncGenerator[tuple[DiskTier, list[bool]]]:
    """An open tier, and what it said of failures."""
    failures: list[bool] = []
    async with opened(directory / "ssd", num_bytes, arena, failures.append, calls) as disk:
        yield disk, failures


async def stored(directory: Path, arena: kv.Arena, count: int = 4) -> list[DiskBlock]:
    """The first blocks of the arena, written by a pool that has ended."""
    blocks = [block(arena, i, i * SLOT) for i in range(count)]
    async with tier(directory, arena) as (disk, _):
        assert await disk.write(write_job(blocks)) == [True] * count
    return blocks


@pytest.mark.parametrize("num_bytes", [SLOT, SLOT + 512, 64 * SLOT])
async def test_blocks_come_back_as_they_were(tmp_path: Path, arena: kv.Arena, num_bytes: int) -> None:
    slot_bytes = -(-num_bytes // SLOT) * SLOT
    places = [3, 0, 1, 7]  # two neighbours, two alone, not in order
    blocks = [block(arena, i, place * slot_bytes, num_bytes) for i, place in enumerate(places)]
    before = arena.copy()
    async with tier(tmp_path, arena) as (disk, failures):
        assert await disk.write(write_job(blocks, num_bytes)) == [True] * 4
        arena[:] = 0
        assert await read(disk, blocks, num_bytes) == [True] * 4
        for each in blocks:
            span = slice(each.arena_offset, each.arena_offset + num_bytes)
            assert (arena[span] == before[span]).all()
        assert disk.counts.read_bytes == disk.counts.written_bytes == 4 * num_bytes
        assert not failures


async def test_unaligned_places_work_too(tmp_path: Path, arena: kv.Arena) -> None:
    each = block(arena, 0, 100, 1000)
    async with tier(tmp_path, arena) as (disk, _):
        assert await disk.write(write_job([each], 1000)) == [True]
        arena[:1000] = 0
        assert await read(disk, [each], 1000) == [True]


async def test_neighbours_are_moved_together(tmp_path: Path, arena: kv.Arena) -> None:
    calls = FailingCalls()
    blocks = [block(arena, i, (i ^ 1) * SLOT) for i in range(64)]
    async with tier(tmp_path, arena, calls=calls) as (disk, _):
        await disk.write(write_job(blocks))
        assert await read(disk, blocks) == [True] * 64
        assert calls.num_reads == 1


async def test_a_restart_finds_the_blocks_and_reads_none(tmp_path: Path, arena: kv.Arena) -> None:
    blocks = await stored(tmp_path, arena)
    calls = FailingCalls()
    async with tier(tmp_path, arena, calls=calls) as (disk, _):
        entries = disk.restored()
        assert calls.num_reads == 0
        assert [(entry.key, entry.parent, entry.position, entry.offset) for entry in entries] == [
            (each.key, each.parent, each.position, each.disk_offset) for each in blocks
        ]
        assert {(entry.namespace_id, entry.num_shards, entry.shard_bytes, entry.block_tokens) for entry in entries} == {
            ("n" * 16, 2, SLOT // 2, 32)
        }
        assert all(await read(disk, [found(entry, MIB + i * SLOT) for i, entry in enumerate(entries)]))


async def test_forgotten_and_overwritten_places_are_not_found(tmp_path: Path, arena: kv.Arena) -> None:
    await stored(tmp_path, arena)
    async with tier(tmp_path, arena) as (disk, _):
        disk.forget(ForgetDisk((0, SLOT)))
        assert await disk.write(write_job([block(arena, 9, SLOT)])) == [True]
        disk.forget(ForgetDisk((2 * SLOT,)))
    async with tier(tmp_path, arena) as (disk, _):
        assert {(entry.offset, entry.position) for entry in disk.restored()} == {(SLOT, 9), (3 * SLOT, 3)}


@pytest.mark.parametrize("cut", [1, 8, 100])
async def test_a_torn_log_loses_its_end_alone(tmp_path: Path, arena: kv.Arena, cut: int) -> None:
    await stored(tmp_path, arena)
    index = tmp_path / "ssd" / "index"
    index.write_bytes(index.read_bytes()[:-cut])
    async with tier(tmp_path, arena) as (disk, _):
        assert [entry.position for entry in disk.restored()] == [0, 1, 2]
        assert await disk.write(write_job([block(arena, 3, 3 * SLOT)])) == [True]
    async with tier(tmp_path, arena) as (disk, _):
        assert [entry.position for entry in disk.restored()] == [0, 1, 2, 3]


@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 5000, b"\x10\x00\x00\x00"])
async def test_what_is_no_record_is_cut_off(tmp_path: Path, arena: kv.Arena, tail: bytes) -> None:
    await stored(tmp_path, arena)
    index = tmp_path / "ssd" / "index"
    good = index.read_bytes()
    index.write_bytes(good + tail)
    async with tier(tmp_path, arena) as (disk, _):
        assert len(disk.restored()) == 4
    assert index.read_bytes() == good


@pytest.mark.parametrize("content", [b"", b"something else" * 100])
async def test_a_log_of_no_known_format_is_begun_anew(tmp_path: Path, arena: kv.Arena, content: bytes) -> None:
    await stored(tmp_path, arena)
    (tmp_path / "ssd" / "index").write_bytes(content)
    async with tier(tmp_path, arena) as (disk, _):
        assert not disk.restored()
        assert await disk.write(write_job([block(arena, 0, 0)])) == [True]
    async with tier(tmp_path, arena) as (disk, _):
        assert len(disk.restored()) == 1


async def test_torn_and_changed_data_is_found(tmp_path: Path, arena: kv.Arena) -> None:
    await stored(tmp_path, arena)
    with (tmp_path / "ssd" / "data").open("r+b") as data:
        data.seek(SLOT)
        data.write(bytes(512))  # torn: one sector never came
        data.seek(3 * SLOT - 1)
        data.write(b"\0" if arena[3 * SLOT - 1] else b"\1")  # one bit, in the second shard
    async with tier(tmp_path, arena) as (disk, failures):
        blocks = [found(entry, MIB + i * SLOT) for i, entry in enumerate(disk.restored())]
        assert await read(disk, blocks) == [True, False, False, True]
        assert disk.counts.corrupt_blocks == 2
        assert not failures


async def test_a_bad_sector_loses_its_block_alone(tmp_path: Path, arena: kv.Arena) -> None:
    blocks = await stored(tmp_path, arena)
    calls = FailingCalls()
    calls.bad_offset = 2 * SLOT + 5
    async with tier(tmp_path, arena, calls=calls) as (disk, failures):
        assert await read(disk, blocks) == [True, True, False, True]
        assert disk.counts.unreadable_blocks == 1
        assert not failures


async def test_a_disk_that_reads_nothing_is_given_up(tmp_path: Path, arena: kv.Arena) -> None:
    blocks = await stored(tmp_path, arena)
    async with tier(tmp_path, arena, calls=FailingCalls(preadv=errno.EIO)) as (disk, failures):
        for _ in range(5):
            assert await read(disk, blocks) == [False] * 4
        assert failures == [False]
        assert await disk.write(write_job(blocks)) == [False] * 4


@pytest.mark.parametrize(
    ("call", "number", "full"),
    [
        ("pwritev", errno.ENOSPC, True),
        ("append", errno.ENOSPC, True),
        ("pwritev", errno.EIO, False),
        ("append", errno.EIO, False),
        ("fdatasync", errno.EIO, False),
    ],
)
async def test_a_disk_that_fails_says_so_and_spoils_nothing(
    tmp_path: Path, arena: kv.Arena, call: str, number: int, full: bool
) -> None:
    blocks = await stored(tmp_path, arena)
    calls = FailingCalls()
    async with tier(tmp_path, arena, calls=calls) as (disk, failures):
        disk.forget(ForgetDisk((0,)))
        calls.errors = {call: number}
        more = [block(arena, 5, 5 * SLOT), block(arena, 6, 6 * SLOT)]
        assert await disk.write(write_job(more)) == [False, False]
        assert failures == [full]
        calls.errors = {}
        assert await disk.write(write_job(more)) == [full, full]  # after the disk had room again
        assert await read(disk, blocks) == [full] * 4
    async with tier(tmp_path, arena) as (disk, _):
        entries = disk.restored()
        assert {entry.position for entry in entries} == ({1, 2, 3, 5, 6} if full else {0, 1, 2, 3})
        assert all(await read(disk, [found(entry, MIB + i * SLOT) for i, entry in enumerate(entries)]))


async def test_jobs_share_a_sync(tmp_path: Path, arena: kv.Arena) -> None:
    calls = FailingCalls()
    async with tier(tmp_path, arena, calls=calls) as (disk, _):
        before = calls.num_syncs
        jobs = [disk.write(write_job([block(arena, i, i * SLOT)])) for i in range(100)]
        assert await asyncio.gather(*jobs) == [[True]] * 100
        assert calls.num_syncs - before < 100  # two each, were they alone
    async with tier(tmp_path, arena) as (disk, _):
        assert len(disk.restored()) == 100


async def test_the_log_is_rewritten_when_most_of_it_is_old(tmp_path: Path, arena: kv.Arena) -> None:
    index = tmp_path / "ssd" / "index"
    blocks = [block(arena, i, i * SLOT) for i in range(1000)]
    sizes: list[int] = []
    async with tier(tmp_path, arena) as (disk, _):
        for _ in range(12):
            disk.forget(ForgetDisk([each.disk_offset for each in blocks]))
            assert all(await disk.write(write_job(blocks)))
            sizes.append(index.stat().st_size)
        assert max(sizes) < 1.4 * MIB
        assert sizes[-1] < max(sizes)
    async with tier(tmp_path, arena) as (disk, _):
        assert [entry.key for entry in disk.restored()] == [each.key for each in blocks]


async def test_more_than_the_disk_has_is_refused(tmp_path: Path, arena: kv.Arena) -> None:
    room = os.statvfs(tmp_path)
    with pytest.raises(SettingsError, match=r"kvpool\.ssd_bytes: \d+ bytes are not to be had"):
        await held(tmp_path, arena, (room.f_bavail + 100_000) * room.f_frsize)
    with pytest.raises(SettingsError, match=r"kvpool\.ssd_bytes"):
        await held(tmp_path, arena, calls=FailingCalls(allocate=errno.ENOSPC))


async def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    program = (
        "import asyncio, resource, sys\n"
        "from pathlib import Path\n"
        "from tests.kvpool.disks import memory\n"
        "from tests.kvpool.test_ssd import held\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "asyncio.run(held(Path(sys.argv[1]), memory(4096)))\n"
    )
    ended = subprocess.run(  # noqa: ASYNC221 (nothing else runs)
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "kvpool.ssd_bytes: 4194304 bytes are not to be had" in ended.stderr


async def held(directory: Path, arena: kv.Arena, num_bytes: int = 4 * MIB, calls: Calls | None = None) -> None:
    """Open a tier, and close it."""
    async with tier(directory, arena, num_bytes, calls):
        pass


async def test_a_smaller_tier_gives_room_back(tmp_path: Path, arena: kv.Arena) -> None:
    await stored(tmp_path, arena)
    await held(tmp_path, arena, 2 * MIB)
    assert (tmp_path / "ssd" / "data").stat().st_size == 2 * MIB


async def test_two_pools_do_not_share_a_directory(tmp_path: Path, arena: kv.Arena) -> None:
    async with tier(tmp_path, arena):
        with pytest.raises(SettingsError, match=r"kvpool\.ssd_directory: another pool uses"):
            await held(tmp_path, arena)


async def test_others_cannot_read_it(tmp_path: Path, arena: kv.Arena) -> None:
    await stored(tmp_path, arena, 1)
    for path in ((tmp_path / "ssd"), *(tmp_path / "ssd").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


_WRITER = """
import asyncio, sys
from pathlib import Path
from services.kvpool.actions import ForgetDisk
from services.kvpool.ssd import opened
from tests.kvpool.disks import SLOT, block, memory, write_job

async def main():
    arena = memory(1 << 20)
    async with opened(Path(sys.argv[1]), 1 << 20, arena, print) as disk:
        key = 0
        while True:
            for first in range(0, 256, 8):
                places = range(first, first + 8)
                disk.forget(ForgetDisk([place * SLOT for place in places]))
                arena[first * SLOT : (first + 8) * SLOT] += 1
                blocks = [block(arena, place, place * SLOT, key=key + place) for place in places]
                assert all(await disk.write(write_job(blocks)))
                print(key + first, flush=True)
            key += 256

asyncio.run(main())
"""


async def test_a_killed_writer_leaves_nothing_wrong(tmp_path: Path) -> None:
    directory = tmp_path / "ssd"
    for num_rounds in (3, 50, 90):
        _write_and_kill(directory, num_rounds)
        arena = memory(1 << 20)
        async with opened(directory, 1 << 20, arena, lambda full: None) as disk:
            entries = disk.restored()
            # At most the jobs that were under way when it was killed are lost; what is found is right.
            assert len(entries) >= min(num_rounds * 8, 256) - 8
            assert sum(await read(disk, [found(entry, entry.offset) for entry in entries])) >= len(entries) - 8
            for entry in entries:
                number = int.from_bytes(entry.key[1:], "big")
                assert number % 256 * SLOT == entry.offset


def _write_and_kill(directory: Path, num_rounds: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(directory)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(num_rounds):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)


_entries = st.builds(
    DiskEntry,
    namespace_id=st.text(max_size=20),
    num_shards=st.just(2),
    shard_bytes=st.integers(1, 2**40),
    block_tokens=st.integers(1, 2**20),
    key=st.binary(min_size=32, max_size=32),
    parent=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    position=st.integers(0, 2**31),
    offset=st.integers(0, 7).map(lambda place: place * SLOT),
    checksums=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)


@settings(max_examples=100)
@given(st.lists(st.one_of(_entries, st.integers(0, 7)), max_size=20), st.data())
def test_a_log_says_what_was_written_to_it_up_to_where_it_is_cut(
    steps: list[DiskEntry | int], data: st.DataObject
) -> None:
    log, models = record.HEADER, [(len(record.HEADER), dict[int, DiskEntry]())]
    for step in steps:
        model = dict(models[-1][1])
        if isinstance(step, int):
            log += record.forget((step * SLOT,))
            model.pop(step * SLOT, None)
        else:
            log += record.put(step)
            model.pop(step.offset, None)
            model[step.offset] = step
        models.append((len(log), model))
    cut = data.draw(st.integers(len(record.HEADER), len(log)))
    flip = data.draw(st.integers(len(record.HEADER), len(log)))
    changed = bytearray(log[:cut])
    if flip < cut:
        changed[flip] ^= 0x40
    end, wanted = [item for item in models if item[0] <= min(cut, flip)][-1]
    read_back = record.read(bytes(changed))
    assert read_back.end == end
    assert {offset: record.entry(log, start) for offset, (start, _) in read_back.live.items()} == wanted
