"""The one-machine stack as a child process, for as long as a benchmark needs it.

Memory and processor time are those of the whole process tree, read from /proc.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.local.spawn import Stack, spawn

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(settings: Mapping[str, object], log: Path) -> AsyncGenerator[Stack]:
    """A stack with these settings (`{"worker.count": 2}`), ready for calls. Raises NotReady. `log`: its output.

    SIGTERM cancels the task that is inside, as SIGINT does under `asyncio.run`, so that no stack outlives us.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    if task := asyncio.current_task():
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    starting = asyncio.create_task(asyncio.to_thread(spawn, (), settings, log))
    try:
        # Shielded: a start that nobody waits for any more must still be stopped.
        stack = await asyncio.shield(starting)
        yield stack
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        if not starting.done() or starting.exception() is None:
            await asyncio.to_thread((await starting).stop)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process tree uses."""

    processes: int
    rss_bytes: int
    """Pages that processes share are counted once for each."""
    cpu_seconds: float


def resources(pid: int) -> Resources:
    """Of the process and its descendants that live now."""
    parents: dict[int, int] = {}
    usage: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            number = int(entry.name)
            parents[number] = int(fields[1])
            usage[number] = (int(fields[21]) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND)
    tree = {pid}
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    members = [usage[member] for member in tree if member in usage]
    return Resources(len(members), sum(rss for rss, _ in members), sum(cpu for _, cpu in members))
