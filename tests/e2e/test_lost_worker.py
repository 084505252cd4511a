"""kill -9 of one of two vLLM workers under load, with real etcd and Redis and every service a process of its own."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import legato
from services.local.spawn import Stack
from tests.e2e.conftest import VLLM, needs_vllm, running
from tests.servers import binary

NUM_PROGRAMS = 16
NUM_CALLS = 4
MAX_TOKENS = 400

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Stack]:
    needs_vllm()
    binary("etcd")
    binary("redis-server")
    with running(VLLM, tmp_path / "log", "--processes") as stack:
        yield stack


async def test_every_program_completes_and_none_sees_an_error(cluster: Stack) -> None:
    started = asyncio.Event()

    async def program(client: legato.Client, index: int) -> list[int]:
        """Tokens of each call. The prompt grows by what the call before it said."""
        counts: list[int] = []
        async with client.program(f"program-{index}") as run:
            agent = run.agent("writer", model="tiny", max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
            messages = [legato.user(f"Write chapter {index} of a long book about agents and tools.")]
            for _ in range(NUM_CALLS):
                async with agent.stream(messages) as stream:
                    async for _piece in stream:
                        started.set()
                counts.append(stream.reply.usage.completion_tokens)
                messages += [stream.reply.message, legato.user("Go on.")]
        return counts

    async with legato.Client(cluster.address) as client:
        async with asyncio.TaskGroup() as tasks:
            programs = [tasks.create_task(program(client, index)) for index in range(NUM_PROGRAMS)]
            await started.wait()
            victim = await busiest(client)
            os.kill(pid_of(victim.worker_id), signal.SIGKILL)
        records = {record.program_id: record for record in await client.programs(include_ended=True, limit=1000)}
        workers = await client.workers()
    assert [task.result() for task in programs] == [[MAX_TOKENS] * NUM_CALLS] * NUM_PROGRAMS
    assert sum(records[f"program-{index}"].num_restarted for index in range(NUM_PROGRAMS)) > 0
    assert victim.worker_id not in {worker.worker_id for worker in workers}


async def busiest(client: legato.Client) -> legato.Worker:
    """The worker with the most calls, by what the scheduler placed: workers' own reports come behind a first token."""
    worker = max(await client.workers(), key=lambda worker: worker.num_placed)
    assert worker.num_placed, "a call that gave tokens was placed somewhere"
    return worker


def pid_of(worker_id: str) -> int:
    """The process of a worker: its id is host-pid-random."""
    return int(worker_id.split("-")[-2])
