"""compose/compose.yaml with the engines that it has by default: vLLM on the CPU, and the tiny model of the images."""

import asyncio
import os
import signal
from collections.abc import Generator

import pytest

import legato
from tests.compose.conftest import Stack, now, serving, standing

pytestmark = [pytest.mark.compose_vllm, pytest.mark.timeout(1800)]

PROMPT = " ".join(f"Worker {number} writes page {number}." for number in range(100))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    with standing(tmp_path_factory.mktemp("compose") / "secrets", {}, "services", "worker") as made:
        yield made


async def test_vllm_in_new_containers_goes_on_from_the_kv_that_killed_ones_left_in_the_pool(real: Stack) -> None:
    async with real.client as client:
        assert [model.num_workers for model in await client.models()] == [2]
        before = await greedy(client)
        assert await saved(client)
        since = now()
        for worker in real.containers("worker"):
            os.kill(int(real.docker.inspect(worker, "{{.State.Pid}}")), signal.SIGKILL)
        for worker in real.containers("worker"):
            await asyncio.to_thread(real.docker.await_event, worker, "start", since)
            await asyncio.to_thread(real.docker.await_event, worker, "health_status: healthy", since, 300.0)
        assert await serving(client, 2)
        after = await greedy(client)
    assert before.usage.cached_tokens == 0
    assert after.usage.cached_tokens > 0
    assert after.text == before.text


async def greedy(client: legato.Client) -> legato.Reply:
    async with client.program() as program:
        return await program.agent("writer").chat(PROMPT, max_tokens=64, min_tokens=64, temperature=0)


async def saved(client: legato.Client) -> bool:
    """Whether the pool holds blocks within a minute. The gateway tells only when it is asked."""
    async with asyncio.timeout(60):
        while not any(tier.num_blocks for pool in await client.pools() for tier in pool.tiers):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return True
