"""Whether memory returns to base: what each process holds under load before the first fault, and in the end."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos import layout
from bench.chaos.cluster import Cluster

MOST_GROWTH = 1.3
SLACK_BYTES = 48 << 20
"""Beyond that factor: what the allocator keeps, and caches that were not full yet."""
_PROGRAM_BYTES = 42 << 10
"""The workflow service remembers a program for an hour unless its end is told, and HTTP clients tell none: so much for
5.6 calls, about as many as programs here have (docs/decisions/0014), some 8 KiB each (services/workflow/limits.py)."""
_SAMPLE_SECONDS = 1.0
_STORES = frozenset(("redis",))
"""Whose memory is what it was given to keep: the call log, answers by idempotency key. Settings bound those."""


@dataclass(slots=True)
class Memory:
    """Samples by service."""

    samples: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    lives: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The processes that each service was."""

    def most(self, name: str, began: float, ended: float) -> int:
        """The most that a service held in that time."""
        return max((size for at, size in self.samples[name] if began <= at <= ended), default=0)

    def compared(self, base: tuple[float, float], end: tuple[float, float]) -> dict[str, tuple[int, int]]:
        """The most in each of two times, by service; stores left out. 0: it was not seen."""
        names = sorted(service.name for service in layout.SERVICES if service.name not in _STORES)
        return {name: (self.most(name, *base), self.most(name, *end)) for name in names}


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncGenerator[Memory]:
    """Sampled while inside."""
    memory = Memory()
    now = asyncio.get_running_loop().time

    async def sample() -> None:
        while True:
            for name, pid in cluster.pids.items():
                memory.lives[name].add(pid)
                if (size := private_bytes(pid)) is not None:
                    memory.samples[name].append((now(), size))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sample(), name="watch memory")
        try:
            yield memory
        finally:
            task.cancel()


def private_bytes(pid: int) -> int | None:
    """What a process holds that it shares with nobody; None: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("RssAnon")), None)
    return int(line.split()[1]) * 1024 if line else None


def allowed(name: str, base_bytes: int, num_unended: int) -> int:
    """What a service may hold in the end. `num_unended`: programs of which nobody said that they are over."""
    kept = num_unended * _PROGRAM_BYTES if layout.service(name).kind == "workflow" else 0
    return round(base_bytes * MOST_GROWTH) + SLACK_BYTES + kept
