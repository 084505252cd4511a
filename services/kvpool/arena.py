"""The arena: the pool's shared memory, one file that the pool and its host's workers map.

All of it is taken before the pool serves, and given back when it ends. The file is locked while its pool lives, so a
file that nobody has locked is what a killed pool left: the next pool on the host gives its memory back and removes it.
Workers that still map a file whose memory was given back read zeros, which no checksum takes for a block.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.common import kv
from services.common.config import KVPoolSection, SettingsError

SHARED_MEMORY = Path("/dev/shm")

_PREFIX = "legato"
_HUGE_BYTES = 2 * 1024 * 1024
_MADV_POPULATE_WRITE = 23  # not in `mmap`
_MFD_HUGE_2MB = 21 << 26  # not in `os`: log2 of the page size
_MPOL_BIND = 2
_MBIND = {"x86_64": 237, "aarch64": 235}
_POPULATE_BYTES = 256 * 1024 * 1024
_POPULATE_THREADS = 8
"""The kernel clears pages at little more than 1 GB/s a thread."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class SharedArena:
    """Memory that others can map."""

    arena_id: str
    """Another one in each life of a pool."""
    path: str
    data: kv.Arena

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes


@contextlib.asynccontextmanager
async def create(
    section: KVPoolSection, cluster: str, pool_id: str, directory: Path = SHARED_MEMORY
) -> AsyncGenerator[SharedArena]:
    """The memory of one life of the pool, all of it taken; the file is gone when the context is left.

    Raises SettingsError where the settings ask for more than there is.
    """
    arena_id = secrets.token_hex(8)
    name = "-".join((_PREFIX, *(re.sub(r"[^A-Za-z0-9.]", "_", part)[:80] for part in (cluster, pool_id)), arena_id))
    _reclaim(directory)
    if section.huge_pages == "always":
        descriptor, path = _huge_file(section.dram_bytes)
    else:
        descriptor, path = _file(directory, name, section.dram_bytes)
    try:
        data = _map(descriptor, section)
        await _populate(descriptor, data, section)
        yield SharedArena(arena_id, path, data)
    finally:
        _remove(descriptor, path)


def _remove(descriptor: int, path: str) -> None:
    with contextlib.suppress(OSError):
        _give_back(descriptor)
    if path.startswith("/proc/"):  # it ends with its descriptor
        os.close(descriptor)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(descriptor)


def _reclaim(directory: Path) -> None:
    """Remove what killed pools left."""
    for path in directory.glob(f"{_PREFIX}-*-*-{'[0-9a-f]' * 16}"):
        with contextlib.suppress(OSError):  # another user's, or removed meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _give_back(descriptor)
                path.unlink()
            finally:
                os.close(descriptor)


def _give_back(descriptor: int) -> None:
    """Free the file's pages: workers may map it for long, and unlinking frees nothing then. Raises OSError."""
    if size := os.fstat(descriptor).st_size:
        with mmap.mmap(descriptor, size) as mapping:
            mapping.madvise(mmap.MADV_REMOVE)


def _file(directory: Path, name: str, wanted_bytes: int) -> tuple[int, str]:
    """A file of zeros, in whole pages, locked from the moment that it has a name."""
    num_bytes = _rounded(wanted_bytes, mmap.PAGESIZE)
    room = os.statvfs(directory)
    if room.f_blocks and room.f_bavail * room.f_frsize < num_bytes:  # a tmpfs without a limit says 0
        raise _too_large(wanted_bytes, f"{directory} has room for {room.f_bavail * room.f_frsize}")
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, num_bytes)
        # Symbolic links are followed only when a directory is given; an absolute path makes nothing of it.
        os.link(f"/proc/self/fd/{descriptor}", directory / name, src_dir_fd=descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, str(directory / name)


def _huge_file(wanted_bytes: int) -> tuple[int, str]:
    """Memory of hugetlbfs. It has no name of its own; processes of this user reach it through ours."""
    flags = os.MFD_CLOEXEC | os.MFD_HUGETLB | _MFD_HUGE_2MB
    try:
        descriptor = os.memfd_create("legato-kvpool", flags)
    except OSError as error:
        raise SettingsError(f"kvpool.huge_pages: the kernel gives no pages of 2 MiB: {error}") from None
    os.ftruncate(descriptor, _rounded(wanted_bytes, _HUGE_BYTES))
    return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}"


def _map(descriptor: int, section: KVPoolSection) -> kv.Arena:
    try:
        mapping = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    except OSError as error:
        if section.huge_pages == "always":
            raise SettingsError(
                f"kvpool.huge_pages: fewer than kvpool.dram_bytes = {section.dram_bytes} are free in pages of 2 MiB "
                f"(vm.nr_hugepages): {error}"
            ) from None
        raise _too_large(section.dram_bytes, str(error)) from None
    if section.huge_pages == "auto":
        with contextlib.suppress(OSError):  # a kernel without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(mapping, np.uint8)
    if section.numa_node >= 0:
        _bind(data, section.numa_node)
    return data


def _bind(data: kv.Arena, node: int) -> None:
    """Let the memory come from one NUMA node and no other. Before it is taken: pages do not move."""
    word_bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (node // word_bits + 1))()
    mask[node // word_bits] = 1 << node % word_bits
    number = _MBIND.get(os.uname().machine)
    if number is None:
        raise SettingsError(f"kvpool.numa_node: not known how to choose a node on {os.uname().machine}")
    address, length = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
    num_bits = ctypes.c_ulong(len(mask) * word_bits + 1)  # the kernel takes one off
    if _LIBC.syscall(ctypes.c_long(number), address, length, ctypes.c_long(_MPOL_BIND), mask, num_bits, 0):
        raise SettingsError(f"kvpool.numa_node: no memory of node {node}: {os.strerror(ctypes.get_errno())}")


async def _populate(descriptor: int, data: kv.Arena, section: KVPoolSection) -> None:
    """Take every page now: later it would cost time in copies, or a signal where there is none."""
    loop = asyncio.get_running_loop()
    starts = range(0, data.nbytes, _POPULATE_BYTES)
    num_threads = min(_POPULATE_THREADS, os.cpu_count() or 1, len(starts))
    with ThreadPoolExecutor(num_threads, "take memory") as threads:
        futures = [loop.run_in_executor(threads, _populate_part, descriptor, data, start) for start in starts]
        try:
            await asyncio.gather(*futures)
        except OSError as error:
            raise _too_large(section.dram_bytes, os.strerror(error.errno or 0)) from None
        finally:
            for future in futures:
                future.cancel()


def _populate_part(descriptor: int, data: kv.Arena, start: int) -> None:
    length = min(_POPULATE_BYTES, data.nbytes - start)
    # Not `mmap.madvise`: that holds the interpreter's lock all the while.
    if not _LIBC.madvise(data.ctypes.data + start, length, _MADV_POPULATE_WRITE):
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:  # a kernel older than 5.14
        os.posix_fallocate(descriptor, start, length)
    else:
        raise OSError(errno.ENOMEM if number == errno.EFAULT else number, os.strerror(number))


def _rounded(num_bytes: int, to_bytes: int) -> int:
    return -(-num_bytes // to_bytes) * to_bytes


def _too_large(num_bytes: int, why: str) -> SettingsError:
    return SettingsError(f"kvpool.dram_bytes: {num_bytes} bytes of shared memory are not to be had: {why}")
