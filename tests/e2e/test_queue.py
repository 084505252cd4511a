"""The queue is where it should be: under overload the engine's own queue stays near empty and its batch full."""

import asyncio
import itertools
import statistics

import pytest

import legato
from services.local.spawn import Stack
from tests.e2e.conftest import VLLM

NUM_LANES = 60
NUM_SAMPLES = 60

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]


async def test_calls_wait_in_the_scheduler_and_not_in_the_engine(vllm_stack: Stack) -> None:
    max_num_seqs = VLLM["worker.max_num_seqs"]
    waiting: list[int] = []
    running: list[int] = []
    full = asyncio.Event()

    async def sample(client: legato.Client) -> None:
        """From the engines' own reports, while more calls are queued than the engines could hold."""
        while len(waiting) < NUM_SAMPLES:
            num_queued = sum(program.num_queued for program in await client.programs(limit=1000))
            workers = await client.workers()
            if all(worker.num_running == max_num_seqs for worker in workers):
                full.set()  # the ramp before it is no overload
            if full.is_set() and num_queued > 2 * max_num_seqs:
                waiting.extend(worker.num_waiting for worker in workers)
                running.extend(worker.num_running for worker in workers)
            await asyncio.sleep(0.05)  # between two looks at the counters

    async def lane(client: legato.Client, index: int, sampler: asyncio.Task[None]) -> None:
        """One call after another for as long as there is something to look at, of lengths that never end together."""
        async with client.program(f"overload-{index}") as program:
            for turn in itertools.count():
                if sampler.done():
                    return
                max_tokens = 90 + (37 * index + 53 * turn) % 120
                await program.agent("a", model="tiny").chat("word " * 20, max_tokens=max_tokens, ignore_eos=True)

    async with legato.Client(vllm_stack.address) as client, asyncio.TaskGroup() as tasks:
        sampler = tasks.create_task(sample(client))
        for index in range(NUM_LANES):
            tasks.create_task(lane(client, index, sampler))
    assert statistics.mean(running) > 0.9 * max_num_seqs, running
    assert statistics.mean(waiting) <= 1.0, waiting
    assert max(waiting) <= 3, waiting
