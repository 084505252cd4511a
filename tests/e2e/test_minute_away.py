"""etcd and Redis are away for a whole minute, under calls: longer than every lease, time limit and pause of ours.

The short versions, and what else may be lost, are in test_lost_scheduler.py.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from legato.v1 import workflow_pb2
from services.common import call_log
from services.common.process import exited
from services.common.registry import Leader, Member
from services.common.state import Store
from tests.e2e.test_lost_scheduler import LEASE_SECONDS, PATIENCE_SECONDS, Cluster, cluster, records, sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

T = TypeVar("T")

AWAY_SECONDS = 60.0
NUM_LANES = 8
TOKENS = 20


class Traffic:
    """Programs of one call, one after the other in each lane, until told to end. Every call is whole."""

    def __init__(self, world: Cluster) -> None:
        self._world = world
        self._enough = asyncio.Event()
        self.finished: set[str] = set()

    async def run(self, lane: int) -> None:
        number = 0
        while not self._enough.is_set():
            program_id = f"lane-{lane}-{number}"
            assert await self._world.complete(program_id, TOKENS) == 0
            self.finished.add(program_id)
            number += 1

    def end(self) -> None:
        self._enough.set()


@asynccontextmanager
async def traffic(world: Cluster) -> AsyncGenerator[Traffic]:
    """For the length of the context, and until its last calls have ended."""
    made = Traffic(world)
    async with asyncio.TaskGroup() as tasks:
        for lane in range(NUM_LANES):
            tasks.create_task(made.run(lane))
        yield made
        made.end()


async def note(seen: AsyncGenerator[T], noted: list[T]) -> None:
    """All that is seen, until cancelled."""
    async with aclosing(seen):
        async for each in seen:
            noted.append(each)  # noqa: PERF401  # a comprehension hides what is seen before it is cancelled


async def logged(store: Store, program_ids: set[str]) -> set[str]:
    """Those of the programs whose call has its end in the log; returns when all have."""
    found, position = set[str](), "0"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not found >= program_ids:
            for entry_id, batch in await store.read(call_log.STREAM, position, wait_seconds=5.0):
                position = entry_id
                entries = workflow_pb2.ReadLogResponse.FromString(batch).entries
                found |= {entry.ended.program_id for entry in entries if entry.HasField("ended")}
    return found & program_ids


async def test_a_minute_without_etcd_costs_no_term_no_worker_and_no_call(tmp_path: Path) -> None:
    async with cluster(tmp_path, LEASE_SECONDS) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        workers, leaders = list[dict[str, Member]](), list[Leader | None]()
        notes = [
            tasks.create_task(note(world.registry.watch("worker"), workers)),
            tasks.create_task(note(world.registry.leaders("scheduler"), leaders)),
        ]
        restarted = sample("legato_gateway_restarts_total")
        connected = sample("legato_gateway_scheduler_away_seconds_count")
        async with traffic(world) as calls:
            assert await world.complete("before", TOKENS) == 0
            before = len(calls.finished)
            world.etcd.kill()
            await asyncio.sleep(AWAY_SECONDS)
            during = len(calls.finished) - before
            world.etcd.start()
            assert (await world.leader()).term == first.term
            await asyncio.sleep(2 * LEASE_SECONDS)  # in which whoever did not announce itself again would be dropped
            assert await world.complete("after", TOKENS) == 0
        for noting in notes:
            noting.cancel()
        assert during > 0
        assert len(workers[0]) == 1
        assert all(snapshot.keys() == workers[0].keys() for snapshot in workers)
        assert {leader and leader.term for leader in leaders} == {first.term}
        assert sample("legato_gateway_restarts_total") == restarted
        assert sample("legato_gateway_scheduler_away_seconds_count") == connected
        world.process(first).kill()  # and it can be followed again
        assert (await world.leader(after=first.term)).id != first.id
        assert await world.complete("followed", TOKENS) == 0


async def test_a_minute_without_redis_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    async with cluster(tmp_path, LEASE_SECONDS) as world:
        first = await world.leader()
        dropped = sample("legato_gateway_log_dropped_total")
        async with traffic(world) as calls:
            assert await world.complete("before", TOKENS) == 0
            before = len(calls.finished)
            world.redis.kill()
            await asyncio.sleep(AWAY_SECONDS)
            during = len(calls.finished) - before
            world.redis.start()
            assert await world.complete("after", TOKENS) == 0
        answered = calls.finished | {"before", "after"}
        assert during > 0
        assert (await world.leader()).term == first.term
        assert await logged(world.store, answered) == answered
        assert sample("legato_gateway_log_dropped_total") == dropped
        for process in world.schedulers:
            process.terminate()
            await exited(process.pid)
        kept = await records(world.store)
        assert {name: kept[name]["num_finished"] for name in answered} == dict.fromkeys(answered, 1)
