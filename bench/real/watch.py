"""What a system's engines do while programs run: samples of their load, beside the calls that are open."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.drive import Board
from bench.real.systems import WORKER, WORKERS, System

_EVERY_SECONDS = 0.5
_SLOTS = WORKERS * WORKER.max_num_seqs
_WAITING = 2.0
"""Calls that must wait before it counts: one may be on its way."""


class Look(NamedTuple):
    """A sample, taken while calls were open."""

    waiting: float
    """Calls that were open and did not run, wherever they waited."""
    running: float
    kv_usage: float
    """Share of KV blocks that running calls held, mean of the engines."""


@dataclass(slots=True)
class Watch:
    """One run's samples."""

    samples: list[Look] = field(default_factory=list[Look])

    @property
    def mean_waiting(self) -> float:
        return self._mean([look.waiting for look in self.samples])

    @property
    def bound_share(self) -> float:
        """Share of the time in which calls waited though the engines' batches had room: KV memory had none."""
        return self._mean([float(look.waiting >= _WAITING and look.running < _SLOTS) for look in self.samples])

    @property
    def kv_usage(self) -> float:
        return self._mean([look.kv_usage for look in self.samples])

    def _mean(self, values: list[float]) -> float:
        return sum(values) / max(1, len(values))


@asynccontextmanager
async def watching(system: System, board: Board) -> AsyncGenerator[Watch]:
    """Samples while inside."""
    watch = Watch()

    async def look() -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            loads = await system.look()
            if board.calls_open and loads:
                running = sum(load.num_running for load in loads)
                usage = sum(load.kv_usage for load in loads) / len(loads)
                watch.samples.append(Look(max(0.0, board.calls_open - running), running, usage))

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(look())
        yield watch
        task.cancel()
