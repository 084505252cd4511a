"""The queue is where it should be: under overload the engine's own queue stays near empty and its batch full."""

import asyncio
import statistics

import pytest

import legato
from services.local.spawn import Stack
from tests.e2e.conftest import VLLM

NUM_CALLS = 120
NUM_SAMPLES = 30

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]


async def test_calls_wait_in_the_scheduler_and_not_in_the_engine(vllm_stack: Stack) -> None:
    max_num_seqs = VLLM["worker.max_num_seqs"]
    waiting: list[int] = []
    running: list[int] = []
    queued: list[int] = []

    async def call(client: legato.Client, index: int) -> None:
        async with client.program(f"overload-{index}") as program:
            await program.agent("a", model="tiny").chat("word " * (20 + index), max_tokens=150, ignore_eos=True)

    async def sample(client: legato.Client) -> None:
        """From the engines' own reports, while more calls are queued than the engines could hold."""
        while len(waiting) < NUM_SAMPLES:
            programs = await client.programs(limit=1000)
            workers = await client.workers()
            if (num_queued := sum(program.num_queued for program in programs)) > 2 * max_num_seqs:
                queued.append(num_queued)
                waiting.extend(worker.num_waiting for worker in workers)
                running.extend(worker.num_running for worker in workers)
            await asyncio.sleep(0.05)  # between two looks at the counters

    async with legato.Client(vllm_stack.address) as client, asyncio.TaskGroup() as tasks:
        sampler = tasks.create_task(sample(client))
        async with asyncio.TaskGroup() as calls:
            for index in range(NUM_CALLS):
                calls.create_task(call(client, index))
        assert sampler.done(), f"the overload was over after {len(waiting)} samples of {NUM_SAMPLES}"
    assert statistics.mean(running) > 0.9 * max_num_seqs, running
    assert statistics.mean(waiting) <= 1.0, waiting
    assert max(waiting) <= 3, waiting
