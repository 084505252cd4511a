"""Opening the disk tier: its directory, which one pool uses at a time, its files and its room."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from services.common import kv
from services.common.config import SettingsError
from services.common.registry.beside import beside
from services.kvpool.ssd.calls import Calls
from services.kvpool.ssd.data import DataFile
from services.kvpool.ssd.index import Index
from services.kvpool.ssd.tier import DiskTier


@contextlib.asynccontextmanager
async def opened(
    directory: Path, num_bytes: int, arena: kv.Arena, failed: Callable[[bool], None], calls: Calls | None = None
) -> AsyncGenerator[DiskTier]:
    """The tier in `directory`, which is made if it is not there and is used by one pool at a time. `failed` is called
    with True when the disk is full before its size was reached, with False when it is given up.

    Raises SettingsError when the directory cannot be used or there is no room.
    """
    calls = calls or Calls()
    lock = await asyncio.to_thread(_lock, directory)
    try:
        data, index = await asyncio.to_thread(_open, directory, num_bytes, arena, calls)
        disk = DiskTier(data, index, failed)
        try:
            async with beside(disk.run()):
                yield disk
        finally:
            await disk.close()
    finally:
        os.close(lock)


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"kvpool.ssd_directory: {error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise SettingsError(f"kvpool.ssd_directory: another pool uses {directory}") from None
    return lock


def _open(directory: Path, num_bytes: int, arena: kv.Arena, calls: Calls) -> tuple[DataFile, Index]:
    try:
        data = DataFile(directory / "data", num_bytes, arena, calls)
    except OSError as error:
        raise SettingsError(f"kvpool.ssd_directory: {error}") from None
    try:
        return data, Index(directory, calls)
    except OSError as error:
        data.close()
        raise SettingsError(f"kvpool.ssd_directory: {error}") from None
