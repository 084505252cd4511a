"""Two schedulers, real etcd and Redis: one dies, freezes, or what they stand on goes away, under load.

Schedulers are processes, to be killed; gateway and workers (simulated) run here, so that what they saw is known.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client import REGISTRY

from legato.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.common import config, registry, rpc, state
from services.common.errors import Reason
from services.common.process import exited
from services.common.registry import Leader, Registry, Unavailable
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.watch import watch
from services.common.state import Store
from services.gateway import service as gateway
from services.local.config import Settings
from services.worker import service as worker
from tests.e2e.conftest import MODEL
from tests.gateway.conftest import ready
from tests.servers.cable import Cable, cable
from tests.servers.etcd import Etcd, etcd
from tests.servers.redis import RedisServer, redis_server

SIMULATED_WORKER = {"engine": "simulated", "model": "tiny", "model_path": str(MODEL)}
NUM_RUNNING = 24
NUM_QUEUED = 60
LONG_TOKENS = 600
SHORT_TOKENS = 20
PATIENCE_SECONDS = 90.0
LEASE_SECONDS = 2
"""Where a lease is to lapse."""
AGES_SECONDS = 600
"""Where none can."""


@dataclass(frozen=True)
class Cluster:
    """What a test sees."""

    etcd: Etcd
    redis: RedisServer
    settings: Settings
    registry: Registry
    store: Store
    http: aiohttp.ClientSession
    schedulers: list["subprocess.Popen[bytes]"]
    cables: list[Cable]
    """Between each of these and etcd, if that was asked for."""

    async def leader(self, after: int = 0) -> Leader:
        """Who leads, in a later term than `after`."""
        async with asyncio.timeout(PATIENCE_SECONDS), aclosing(self.registry.leaders("scheduler")) as leaders:
            async for leader in leaders:
                if leader is not None and leader.term > after:
                    return leader
        raise AssertionError("the registry fell silent")

    def process(self, leader: Leader) -> "subprocess.Popen[bytes]":
        """Of one who leads: its id has the process's."""
        return next(process for process in self.schedulers if f"-{process.pid}-" in leader.id)

    async def programs(self, leader: Leader) -> list[scheduler_pb2.ProgramStatus]:
        """All that the leader knows of."""
        async with rpc.channel(leader.address) as channel:
            request = scheduler_pb2.ListProgramsRequest(include_ended=True, limit=10_000)
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            return list((await stub.ListPrograms(request, timeout=PATIENCE_SECONDS)).programs)

    async def let_go(self, leader: Leader) -> Reason:
        """Why the leader ends the stream of a gateway that only listens."""

        async def listens() -> AsyncGenerator[scheduler_pb2.ScheduleRequest]:
            hello = scheduler_pb2.GatewayEvent(hello=scheduler_pb2.Hello(gateway_id="listener"))
            yield scheduler_pb2.ScheduleRequest(events=[hello])
            await asyncio.Event().wait()

        async with rpc.channel(leader.address) as channel:
            stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Schedule(listens())
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for _ in stream:
                    pass
        return rpc.failure_from(ended.value).reason

    async def complete(self, program_id: str, max_tokens: int, began: asyncio.Semaphore | None = None) -> int:
        """One call, streamed; how many tokens it was short of what it asked for. `began` hears of its first token."""
        body: dict[str, Any] = {"model": "tiny", "prompt": program_id, "max_tokens": max_tokens, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        last = ""
        headers = {"x-legato-program-id": program_id}
        async with self.http.post("/v1/completions", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if not (data := line.decode().removeprefix("data: ").strip()) or data.startswith(":"):
                    continue
                if began is not None and not last:
                    began.release()
                if data == "[DONE]":
                    return max_tokens - json.loads(last)["usage"]["completion_tokens"]
                last = data
        raise AssertionError(f"the stream ended after {last}")


def sample(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


class Load:
    """Calls that fill the engines, and calls that queue behind them; together they outlast what is done to them."""

    def __init__(self, cluster: Cluster, tasks: asyncio.TaskGroup) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._calls: list[asyncio.Task[int]] = []
        self.num_restarted = sample("legato_gateway_restarts_total")
        self.num_connected = sample("legato_gateway_scheduler_away_seconds_count")

    async def run(self, leader: Leader) -> None:
        """Return when as many run and queue as should."""
        began = asyncio.Semaphore(0)
        for number in range(NUM_RUNNING):
            self._start(f"long-{number}", LONG_TOKENS, began)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(NUM_RUNNING):
                await began.acquire()
            for number in range(NUM_QUEUED):
                self._start(f"short-{number}", SHORT_TOKENS)
            while True:
                programs = await self._cluster.programs(leader)
                if sum(program.num_queued for program in programs) >= NUM_QUEUED // 2:
                    return
                await asyncio.sleep(0.01)  # the queue's length is only to be asked for

    async def end(self) -> None:
        """Every call is whole, and none lost its worker, or was begun again."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await asyncio.gather(*self._calls) == [0] * (NUM_RUNNING + NUM_QUEUED)
        assert sample("legato_gateway_restarts_total") == self.num_restarted

    @property
    def num_reconnected(self) -> int:
        """How often the gateway was without a scheduler since the load began."""
        return int(sample("legato_gateway_scheduler_away_seconds_count") - self.num_connected)

    def _start(self, program_id: str, max_tokens: int, began: asyncio.Semaphore | None = None) -> None:
        self._calls.append(self._tasks.create_task(self._cluster.complete(program_id, max_tokens, began)))


@contextmanager
def processes(settings: Settings, folder: Path, endpoints: Sequence[str]) -> Generator[list["subprocess.Popen[bytes]"]]:
    """A scheduler for each of these addresses of etcd."""
    overrides = {
        "cluster.name": settings.cluster.name,
        "telemetry.log_format": "text",
        "registry.lease_seconds": settings.registry.lease_seconds,
        "state.url": settings.state.url,
        "scheduler.save_seconds": 0.1,
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, endpoint in enumerate(endpoints):
            with (folder / f"scheduler-{number}.log").open("wb") as log:
                command = (sys.executable, "-m", "services.scheduler")
                environment = config.environment({**overrides, "registry.endpoints": [endpoint]})
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@asynccontextmanager
async def cluster(folder: Path, lease_seconds: int, *, cables: bool = False) -> AsyncGenerator[Cluster]:
    """Served when entered: one scheduler leads, the other stands by. `cables`: each can be cut off from etcd."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(etcd(folder))
        redis = stack.enter_context(redis_server(tcp=True, durable=True))
        settings = Settings.model_validate(
            {
                "cluster": {"name": "lost-scheduler", "drain_seconds": 5.0},
                "registry": {"endpoints": (server.address,), "lease_seconds": lease_seconds},
                "state": {"url": redis.url},
                "gateway": {"http_port": 0, "port": 0, "scheduler_grace_seconds": PATIENCE_SECONDS},
                "worker": {**SIMULATED_WORKER, "max_num_seqs": NUM_RUNNING},
                "simulated": {"profile": "tiny-cpu"},
            }
        )
        between = [await stack.enter_async_context(cable(server.address)) for _ in range(2 * cables)]
        endpoints = [each.address for each in between] or [server.address] * 2
        schedulers = stack.enter_context(processes(settings, folder, endpoints))
        members = await stack.enter_async_context(registry.connect(settings.registry, settings.cluster.name))
        await stands(members, 2)
        store = await stack.enter_async_context(state.connect(settings.state, settings.cluster.name))
        await stack.enter_async_context(worker.running(settings))
        served = await stack.enter_async_context(gateway.running(settings))
        http = aiohttp.ClientSession(
            f"http://{served.http_address}",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS),
        )
        await stack.enter_async_context(http)
        await ready(http)
        yield Cluster(server, redis, settings, members, store, http, schedulers, between)


async def stands(members: Registry, count: int) -> None:
    """Wait until so many schedulers are there."""
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(members.watch("scheduler")) as snapshots:
        async for snapshot in snapshots:
            if len(snapshot) == count:
                return


async def test_a_leader_that_is_killed_is_followed_before_its_lease_ends(tmp_path: Path) -> None:
    async with cluster(tmp_path, AGES_SECONDS) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        load = Load(world, tasks)
        for turn in range(3):
            assert await world.complete("veteran", 4 + turn) == 0
        await saved(world.store, "veteran", 3)
        await load.run(first)
        world.process(first).kill()
        second = await world.leader(after=first.term)
        async with aclosing(world.registry.watch("scheduler")) as snapshots:
            assert first.id in await anext(snapshots)  # its leases stand: they are not what ended its lead
        await load.end()
        assert await world.complete("veteran", 4) == 0
        [veteran] = [program for program in await world.programs(second) if program.program_id == "veteran"]
        assert veteran.num_finished == 4
        assert load.num_reconnected == 1


async def test_a_leader_that_freezes_is_followed_and_obeyed_no_more(tmp_path: Path) -> None:
    async with cluster(tmp_path, LEASE_SECONDS) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        load = Load(world, tasks)
        await load.run(first)
        candidates = watch_candidates(world)
        await anext(candidates)
        os.kill(world.process(first).pid, signal.SIGSTOP)
        second = await world.leader(after=first.term)
        await load.end()
        assert second.id != first.id
        assert await world.store.write("scheduler", first.term, {}) == second.term  # refused
        os.kill(world.process(first).pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(await anext(candidates)) < 2:  # it stands again
                pass
        await candidates.aclose()
        assert (await world.leader()).term == second.term
        assert await world.complete("after", 8) == 0
        assert load.num_reconnected == 1


async def test_a_leader_that_is_cut_off_from_etcd_is_followed_and_obeyed_no_more(tmp_path: Path) -> None:
    async with cluster(tmp_path, LEASE_SECONDS, cables=True) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        load = Load(world, tasks)
        await load.run(first)
        let_go = tasks.create_task(world.let_go(first))
        cut = world.cables[world.schedulers.index(world.process(first))]
        cut.pull()
        second = await world.leader(after=first.term)
        assert second.id != first.id
        await load.end()
        assert load.num_reconnected == 1
        assert await world.store.write("scheduler", first.term, {}) == second.term  # refused
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await let_go is Reason.NOT_LEADER  # the worker told it, for nobody else could
        cut.join()
        assert (await world.leader()).term == second.term
        assert await world.complete("after", 8) == 0


async def test_without_etcd_the_leader_leads_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, LEASE_SECONDS) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        load = Load(world, tasks)
        await load.run(first)
        world.etcd.kill()
        connection = Connection([world.etcd.address], timeout_seconds=2 * LEASE_SECONDS)
        with pytest.raises(Unavailable):
            await Client(connection).get("k")  # beyond every lease
        await connection.close()
        assert await world.complete("meanwhile", 8) == 0
        world.etcd.start()
        assert (await world.leader()).term == first.term
        await load.end()
        assert load.num_reconnected == 0
        world.process(first).kill()  # and it can be followed again
        assert (await world.leader(after=first.term)).id != first.id
        assert await world.complete("after", 8) == 0


async def test_what_redis_could_not_be_told_it_is_told_when_it_is_back(tmp_path: Path) -> None:
    async with cluster(tmp_path, AGES_SECONDS) as world, asyncio.TaskGroup() as tasks:
        first = await world.leader()
        load = Load(world, tasks)
        assert await world.complete("before", 4) == 0
        await saved(world.store, "before", 1)
        await load.run(first)
        world.redis.kill()
        await load.end()
        assert await world.complete("meanwhile", 4) == 0
        world.redis.start()
        for process in world.schedulers:
            process.terminate()
            await exited(process.pid)
        finished = {key: record["num_finished"] for key, record in (await records(world.store)).items()}
        assert sum(finished.values()) == NUM_RUNNING + NUM_QUEUED + 2
        assert finished["before"] == finished["meanwhile"] == 1


async def records(store: Store) -> dict[str, dict[str, Any]]:
    """Programs as they are kept."""
    return {key.removeprefix("program/"): json.loads(value) async for key, value in store.items("program/")}


async def saved(store: Store, program_id: str, num_finished: int) -> None:
    """Wait until so many finished calls of a program are kept."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if (await records(store)).get(program_id, {}).get("num_finished") == num_finished:
                return
            await asyncio.sleep(0.01)  # what is kept is only to be asked for


async def watch_candidates(world: Cluster) -> AsyncGenerator[set[str]]:
    """The keys of those who lead or stand for it, now and after each change."""
    prefix = f"/legato/{world.settings.cluster.name}/leaders/scheduler/"
    connection = Connection([world.etcd.address])
    try:
        listing = await Client(connection).list(prefix)
        keys = {entry.key for entry in listing.entries}
        yield set(keys)
        changes = watch(connection, prefix, after=listing.revision, silence_seconds=30.0, prefix=True)
        async with aclosing(changes) as batches:
            async for batch in batches:
                for change in batch.changes:
                    (keys.discard if change.value is None else keys.add)(change.key)
                yield set(keys)
    finally:
        await connection.close()
