"""The lead changes hands again and again while calls queue and run: every call completes, whole.

The same process takes the lead each time, as it does when its own lease lapses in a burst; the workers' keys vanish
with it every other time. Real services and registry in one event loop, so that each blow falls at a known moment.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.embedded import serve_embedded
from services.common.registry.watch import watch
from services.gateway import service as gateway
from services.local.config import Settings
from services.scheduler import service as scheduler
from services.worker import service as worker
from tests.e2e.conftest import MODEL
from tests.gateway.conftest import ready

NUM_LANES = 200
CALLS_PER_LANE = 4
CALLS_PER_BLOW = 80


@dataclass(frozen=True)
class Stack:
    """What the test sees."""

    http: aiohttp.ClientSession
    registry: Client
    leader: scheduler.Running
    root: str


@asynccontextmanager
async def running() -> AsyncGenerator[Stack]:
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(serve_embedded())
        settings = Settings.model_validate(
            {
                "cluster": {"drain_seconds": 5.0},
                "registry": {"endpoints": (endpoint,)},
                "gateway": {"http_port": 0, "port": 0},
                "worker": {"engine": "simulated", "count": 2, "model": "tiny", "model_path": str(MODEL)},
                "simulated": {"profile": "tiny-cpu"},
            }
        )
        leader = await stack.enter_async_context(scheduler.running(settings))
        await stack.enter_async_context(worker.running(settings))
        served = await stack.enter_async_context(gateway.running(settings))
        connector = aiohttp.TCPConnector(limit=0)
        http = aiohttp.ClientSession(
            f"http://{served.http_address}", connector=connector, timeout=aiohttp.ClientTimeout(90)
        )
        await stack.enter_async_context(http)
        connection = Connection([endpoint])
        stack.push_async_callback(connection.close)
        await ready(http)
        yield Stack(http, Client(connection), leader, f"/legato/{settings.cluster.name}")


async def complete(http: aiohttp.ClientSession, lane: int, turn: int) -> int:
    """One call, streamed or not; how many tokens it was short of what it asked for."""
    max_tokens = 1 + (lane * 7 + turn * 13) % 60
    streamed = lane % 3 == 0
    body: dict[str, Any] = {"model": "tiny", "prompt": f"lane {lane}", "max_tokens": max_tokens, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    async with http.post("/v1/completions", json=body) as response:
        text = await response.text()
        assert response.status == 200, text
    if streamed:
        assert text.rstrip().endswith("data: [DONE]"), text
        text = text.rstrip().split("\n\n")[-2].removeprefix("data: ")
    return max_tokens - json.loads(text)["usage"]["completion_tokens"]


async def strike(stack: Stack, *, workers_too: bool) -> str:
    """Take the lead away, and see it taken again. The key that was deleted."""
    leaders = f"{stack.root}/leaders/"
    listed = await stack.registry.list(leaders)
    (entry,) = listed.entries
    members = (await stack.registry.list(f"{stack.root}/members/worker/")).entries if workers_too else ()
    await stack.registry.delete(entry.key)
    for member in members:
        await stack.registry.delete(member.key)
    changes = watch(stack.registry.connection, leaders, after=listed.revision, silence_seconds=30, prefix=True)
    async with asyncio.timeout(30), aclosing(changes):
        async for batch in changes:
            if any(change.value is not None and change.key != entry.key for change in batch.changes):
                break
        await stack.leader.leading.wait()
    return entry.key


async def test_every_call_outlives_the_leaders_it_had() -> None:
    finished = asyncio.Semaphore(0)
    struck: list[str] = []

    async def lane(http: aiohttp.ClientSession, number: int) -> list[int]:
        short: list[int] = []
        for turn in range(CALLS_PER_LANE):
            short.append(await complete(http, number, turn))
            finished.release()
        return short

    async with running() as stack, asyncio.TaskGroup() as tasks:
        lanes = [tasks.create_task(lane(stack.http, number)) for number in range(NUM_LANES)]
        for blow in range(NUM_LANES * CALLS_PER_LANE // CALLS_PER_BLOW - 1):
            for _ in range(CALLS_PER_BLOW):
                await finished.acquire()
            struck.append(await strike(stack, workers_too=blow % 2 == 1))
        results = [await task for task in lanes]
    assert len(set(struck)) == 9, struck
    assert results == [[0] * CALLS_PER_LANE] * NUM_LANES
