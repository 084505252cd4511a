"""A whole stack learns from its calls: what it foretells comes to whoever listens, and a workflow service that comes
and goes under load costs no call anything. Real services and registry in one event loop."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from services.common import registry, state
from services.common.forecaster import Forecaster
from services.common.foretold import Foretold
from services.common.registry.embedded import serve_embedded
from services.gateway import service as gateway
from services.local.config import Settings
from services.scheduler import service as scheduler
from services.worker import service as worker
from services.workflow import service as workflow
from tests.e2e.conftest import MODEL
from tests.gateway.conftest import ready

SECONDS = 30.0
NUM_LANES = 20
CALLS_PER_LANE = 10
MAX_TOKENS = 12


@dataclass
class Stack:
    """What the tests see."""

    settings: Settings
    http: aiohttp.ClientSession
    heard: list[Foretold] = field(default_factory=list[Foretold])
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, told: Sequence[Foretold]) -> None:
        self.heard += told
        self.came.set()

    async def call(self, program: str, turn: int) -> None:
        body = {"model": "tiny", "prompt": f"{program} {turn}", "max_tokens": MAX_TOKENS, "ignore_eos": True}
        headers = {"x-legato-program-id": program, "x-legato-agent": "writer"}
        async with self.http.post("/v1/completions", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()


@asynccontextmanager
async def running(name: str) -> AsyncGenerator[Stack]:
    """Without a workflow service, but with one who listens for it."""
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(serve_embedded())
        settings = Settings.model_validate(
            {
                "cluster": {"name": name, "drain_seconds": 5.0},
                "registry": {"endpoints": (endpoint,)},
                "gateway": {"http_port": 0, "port": 0},
                "worker": {"engine": "simulated", "count": 2, "model": "tiny", "model_path": str(MODEL)},
                "simulated": {"profile": "tiny-cpu"},
            }
        )
        await stack.enter_async_context(state.connect(settings.state, name))  # outlives the workflow service
        await stack.enter_async_context(scheduler.running(settings))
        await stack.enter_async_context(worker.running(settings))
        served = await stack.enter_async_context(gateway.running(settings))
        timeout = aiohttp.ClientTimeout(SECONDS)
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://{served.http_address}", timeout=timeout))
        await ready(http)
        members = await stack.enter_async_context(registry.connect(settings.registry, name))
        made = Stack(settings, http)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        following = tasks.create_task(Forecaster(members, made.take, lambda: None).run())
        stack.callback(following.cancel)
        yield made


async def test_calls_teach_what_calls_will_be() -> None:
    async with running("workflow-learns") as stack, workflow.running(stack.settings):
        for number in range(NUM_LANES):
            await stack.call(f"p{number}", 0)
        await stack.call("last", 0)
        async with asyncio.timeout(SECONDS):
            while not any(told.program_id == "last" for told in stack.heard):
                stack.came.clear()
                await stack.came.wait()
    # Of a call that has ended before its forecast was sent only the newer one comes.
    told = [told for told in stack.heard if told.call_id][-1]
    output = told.forecast.output
    assert told.agent == "writer"
    assert output is not None
    assert output.cdf(MAX_TOKENS + 3.0) - output.cdf(MAX_TOKENS - 3.0) > 0.5


async def test_calls_need_no_workflow_service() -> None:
    async def lane(stack: Stack, number: int) -> None:
        for turn in range(CALLS_PER_LANE):
            await stack.call(f"p{number}", turn)

    async with running("workflow-comes-and-goes") as stack, asyncio.TaskGroup() as tasks:
        lanes = [tasks.create_task(lane(stack, number)) for number in range(NUM_LANES)]
        for _ in range(3):
            async with workflow.running(stack.settings) as service, asyncio.timeout(SECONDS):
                await service.caught_up.wait()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*lanes)
