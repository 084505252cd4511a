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
    processes = _processes()
    members = [processes[member] for member in _tree(pid, processes) if member in processes]
    return Resources(
        len(members), sum(member.rss_bytes for member in members), sum(member.cpu_seconds for member in members)
    )


def descendants(pid: int) -> set[int]:
    """The process and those that it, or one of them, started and that live now."""
    return _tree(pid, _processes())


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    rss_bytes: int
    cpu_seconds: float


def _processes() -> dict[int, _Process]:
    found: dict[int, _Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            cpu_seconds = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
            found[int(entry.name)] = _Process(int(fields[1]), int(fields[21]) * _PAGE_BYTES, cpu_seconds)
    return found


def _tree(pid: int, processes: Mapping[int, _Process]) -> set[int]:
    tree = {pid}
    while grown := {child for child, process in processes.items() if process.parent in tree} - tree:
        tree |= grown
    return tree
