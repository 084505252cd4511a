"""Waiting for processes."""

import asyncio
import os


async def exited(pid: int) -> None:
    """Wait until a process ends, child or not, reaped or not. Returns at once when there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
