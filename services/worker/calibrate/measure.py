"""Runs points on workers and times them by the engines' own clocks.

Each worker gets a Generate stream as a gateway opens it. Several workers are measured at once, each step of the plan
on all of them together, so that engines which share a machine slow each other down as they will in service. Nothing
else may run on them meanwhile.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import TypeAlias

import grpc

from legato.v1 import call_pb2, worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.worker.calibrate.points import Decode, Point, Prefill, Sample

_TOKEN_IDS = range(32, 256)
"""Ids that every vocabulary has."""
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]"

_MARGIN = 8
"""Tokens by which the others outlive the sequence that is timed."""


class Disturbed(Exception):
    """A worker did not do what the point asks for; the message says what."""


class Bench:
    """One worker, from inside `connected`."""

    def __init__(self, description: worker_pb2.WorkerDescription, seed: int) -> None:
        self.description = description
        self._requests: asyncio.Queue[worker_pb2.GenerateRequest] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[worker_pb2.Finish]] = {}
        self._slots = itertools.count(1)
        self._random = random.Random(seed)

    async def prepare(self, point: Point) -> list[list[int]]:
        """Put into the prefix cache what the point wants there: the beginnings of its sequences."""
        match point:
            case Decode():
                texts = [self._text(point.context) for _ in range(point.num_seqs)]
                await asyncio.gather(*(self._run(text, 1) for text in texts))
            case Prefill():
                texts = [self._text(point.cached)]
                if point.cached:
                    await self._run([*texts[0], *self._text(1)], 1)
        return texts

    async def time(self, point: Point, texts: Sequence[list[int]], num_steps: int) -> Sample:
        """Run the point once, after `prepare`. Raises Disturbed."""
        match point:
            case Decode():
                return await self._decode(point, texts, num_steps)
            case Prefill():
                return await self._prefill(point, texts[0])

    async def _prefill(self, point: Prefill, text: Sequence[int]) -> Sample:
        finish = await self._run([*text, *self._text(point.new)], 1)
        pairs = point.new * point.cached + point.new**2 / 2
        if finish.usage.cached_tokens != point.cached:
            raise Disturbed(f"{finish.usage.cached_tokens} tokens were cached instead of {point.cached}")
        return Sample(point, 1, point.new, 0.0, pairs, finish.timings.prefill_seconds)

    async def _decode(self, point: Decode, texts: Sequence[list[int]], num_steps: int) -> Sample:
        # What is cached prefills in no time, and the engine starts calls in order. The first ones outlive the last, so
        # through all of its steps the batch is full, and nothing prefills.
        lengths = [num_steps + _MARGIN] * (len(texts) - 1) + [num_steps]
        runs = (self._run(text, length) for text, length in zip(texts, lengths, strict=True))
        *others, last = await asyncio.gather(*runs)
        seconds = last.timings.decode_seconds
        if any(other.timings.decode_seconds < seconds for other in others):
            raise Disturbed("the sequences of a batch did not decode together")
        context = point.num_seqs * (point.context + num_steps / 2)
        return Sample(point, point.num_seqs, point.num_seqs, context, 0.0, seconds / (num_steps - 1))

    async def _run(self, prompt: Sequence[int], num_tokens: int) -> worker_pb2.Finish:
        sampling = call_pb2.Sampling(max_tokens=num_tokens, temperature=0, ignore_eos=True)
        slot = next(self._slots)
        finished = self._waiting[slot] = asyncio.get_running_loop().create_future()
        identity = call_pb2.CallIdentity(program_id="calibrate", call_id=str(slot))
        start = worker_pb2.StartCall(slot=slot, identity=identity, prompt_token_ids=prompt, sampling=sampling)
        self._requests.put_nowait(worker_pb2.GenerateRequest(start=start))
        finish = await finished
        if finish.usage.completion_tokens != num_tokens:
            raise Disturbed(f"the worker ended a call early: {finish.error_message or finish.reason}")
        return finish

    def _text(self, num_tokens: int) -> list[int]:
        return self._random.choices(_TOKEN_IDS, k=num_tokens)

    async def converse(self, stream: _Stream) -> None:
        """Carry calls until cancelled. Raises what ends the stream."""

        async def write() -> None:
            while True:
                await stream.write(await self._requests.get())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            async for response in stream:
                for output in response.outputs:
                    if output.HasField("finish"):
                        self._waiting.pop(output.slot).set_result(output.finish)
            raise ConnectionError("the worker ended its stream")


@asynccontextmanager
async def connected(addresses: Sequence[str], seed: int) -> AsyncGenerator[list[Bench]]:
    """The workers at these addresses. Raises what gRPC raises where none is."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        benches: list[Bench] = []
        running: list[asyncio.Task[None]] = []
        for number, address in enumerate(addresses):
            stub = worker_pb2_grpc.WorkerServiceStub(await stack.enter_async_context(rpc.channel(address, "worker")))
            described: worker_pb2.DescribeResponse = await stub.Describe(worker_pb2.DescribeRequest())
            benches.append(Bench(described.description, seed * 1000 + number))
            running.append(tasks.create_task(benches[-1].converse(stub.Generate())))
        yield benches
        for task in running:
            task.cancel()


async def measure(benches: Sequence[Bench], point: Point, num_steps: int, repeats: int) -> Sample:
    """Run the point on all workers at once, again and again: the median. Raises Disturbed."""
    texts = await asyncio.gather(*(bench.prepare(point) for bench in benches))
    samples: list[Sample] = []
    for _ in range(repeats):
        runs = (bench.time(point, own, num_steps) for bench, own in zip(benches, texts, strict=True))
        samples += await asyncio.gather(*runs)
    first = samples[0]
    seconds = median(sample.seconds for sample in samples)
    return Sample(point, first.num_seqs, first.num_tokens, first.decode_context, first.prefill_pairs, seconds)
