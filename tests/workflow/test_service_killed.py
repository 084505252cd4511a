"""kill -9 of a workflow service under load, with real etcd, Redis and processes: those who write the log and those who
listen go on, and its next life has learned what came meanwhile and foretells again within 5 s."""

import asyncio
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import pytest

from services.common import config, registry, state
from services.common.config import RegistrySection, StateSection
from services.common.forecaster import Forecaster
from services.common.foretold import Foretold
from services.common.laws import Quantiles
from services.common.state import Store
from tests.servers.etcd import etcd
from tests.servers.redis import redis_server
from tests.workflow.log_entries import OUTPUT_TOKENS, began, ended, life, write

SECONDS = 30.0
"""Bound on whatever the test waits for."""
BACK_SECONDS = 5.0
CLUSTER = "workflow-killed"
BEAT_SECONDS = 0.005
"""Between two writes of the load, of one program's call each."""


@dataclass
class Listener:
    """What is foretold, by call."""

    heard: dict[tuple[str, str], Foretold] = field(default_factory=dict[tuple[str, str], Foretold])
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, told: Sequence[Foretold]) -> None:
        for item in told:
            self.heard[item.program_id, item.call_id] = item
        self.came.set()

    async def of(self, program_id: str, call_id: str) -> Foretold:
        async with asyncio.timeout(SECONDS):
            while (program_id, call_id) not in self.heard:
                self.came.clear()
                await self.came.wait()
        return self.heard[program_id, call_id]


@dataclass
class Load:
    """Programs that come and go as long as it runs."""

    store: Store
    written: int = 0
    slowest: float = 0.0
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            program, now = f"load{self.written}", time.time()
            before = time.perf_counter()
            await write(self.store, [began(program, 0, now - 5.0), ended(program, 0, now)])
            self.slowest = max(self.slowest, time.perf_counter() - before)
            self.written += 1
            self.wrote.set()
            await asyncio.sleep(BEAT_SECONDS)

    async def more(self, num_programs: int) -> None:
        until = self.written + num_programs
        async with asyncio.timeout(SECONDS):
            while self.written < until:
                self.wrote.clear()
                await self.wrote.wait()


@contextmanager
def service(overrides: dict[str, object], log: Path) -> "Generator[Popen[bytes]]":
    command, environment = (sys.executable, "-m", "services.workflow"), config.environment(overrides)
    with log.open("ab") as output:
        process = Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def leave_a_snapshot(process: "Popen[bytes]", store: Store) -> None:
    process.terminate()
    assert await asyncio.to_thread(process.wait, SECONDS) == 0
    assert await store.get("workflow/snapshot")


@pytest.mark.timeout(240)
async def test_nothing_waits_for_one_that_is_killed_and_its_next_life_foretells_as_soon_as_any(tmp_path: Path) -> None:
    with etcd(tmp_path) as registrar, redis_server(tcp=True) as redis:
        overrides: dict[str, object] = {
            "cluster.name": CLUSTER,
            "registry.endpoints": [registrar.address],
            "state.url": redis.url,
        }
        listener = Listener()
        async with (
            registry.connect(RegistrySection(endpoints=(registrar.address,)), CLUSTER) as members,
            state.connect(StateSection(url=redis.url), CLUSTER) as store,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(200):
                await write(store, life(f"old{number}", 4, time.time() - 3600.0 + number))
            load = Load(store)
            loading = tasks.create_task(load.run())
            following = tasks.create_task(Forecaster(members, listener.take, lambda: None).run())
            with service(overrides, tmp_path / "first.log") as first:
                await write(store, [began("first", 0, time.time())])
                await listener.of("first", "c0")
                await leave_a_snapshot(first, store)
            started = time.perf_counter()
            with service(overrides, tmp_path / "second.log"):
                await write(store, [began("second", 0, time.time())])
                await listener.of("second", "c0")
                usual = time.perf_counter() - started
            await write(store, [began("meanwhile", 0, time.time())])
            await load.more(100)
            started = time.perf_counter()
            with service(overrides, tmp_path / "third.log"):
                meanwhile = await listener.of("meanwhile", "c0")
                await write(store, [began("after", 0, time.time())])
                await listener.of("after", "c0")
                back = time.perf_counter() - started
            loading.cancel()
            following.cancel()
        assert back < 2 * usual  # most of it is the start of a process
        assert load.slowest < BACK_SECONDS / 2
        output = meanwhile.forecast.output
        assert isinstance(output, Quantiles)
        assert output.quantile(0.5) == pytest.approx(OUTPUT_TOKENS, rel=0.3)  # learned before it was killed
