"""kill -9 of gateways while calls queue and stream: their clients go on elsewhere and get what they would have got.

The gateways are processes; scheduler, engines (simulated) and registry run in this one, Redis is real.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import pytest

import legato
from legato.v1 import workflow_pb2
from services.common import config, registry, state
from services.common.config import StateSection
from services.common.registry import Registry
from services.common.registry.embedded import serve_embedded
from services.common.state import Store
from services.local.config import Settings
from services.scheduler import service as scheduler
from services.worker import service as worker
from services.workflow.log import replay
from tests.e2e.conftest import MODEL
from tests.servers import free_port
from tests.servers.redis import redis_server

NUM_STREAMS = 32
MAX_RUNNING = 10
"""At each of two workers: the other streams queue."""
MAX_TOKENS = 120
TOOL = legato.Tool("search", "looks it up", {"type": "object", "properties": {"query": {"type": "string"}}})
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}, "pages": {"type": "array"}}}
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "ignore_eos": True},
    {"temperature": 1.0, "ignore_eos": True, "logprobs": 1},
    {"temperature": 0, "ignore_eos": True, "frequency_penalty": 0.5},
    {"temperature": 1.0, "seed": 7, "ignore_eos": True},
    {"temperature": 0, "response_schema": SCHEMA},
    {"temperature": 0, "tools": [TOOL], "tool_choice": "required"},
)
"""What one engine continues and another repeats."""

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Gateway:
    """One that serves."""

    process: "Popen[bytes]"
    port: int
    address: str
    http: str

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)


@dataclass
class Gateways:
    """Gateway processes of one cluster, and what they share."""

    settings: Settings
    members: Registry
    store: Store
    folder: Path
    processes: list["Popen[bytes]"] = field(default_factory=list["Popen[bytes]"])
    _known: set[str] = field(default_factory=set[str])

    async def start(self, port: int = 0) -> Gateway:
        """One more, once it is announced."""
        port = port or free_port()
        overrides: dict[str, object] = {
            "registry.endpoints": list(self.settings.registry.endpoints),
            "state.url": self.settings.state.url,
            "gateway.port": port,
            "gateway.http_port": 0,
        }
        with (self.folder / f"gateway-{len(self.processes)}.log").open("wb") as log:
            command = (sys.executable, "-m", "services.gateway")
            process = Popen(command, env=config.environment(overrides), stdout=log, stderr=log)  # noqa: ASYNC220 (a fork takes milliseconds)
        self.processes.append(process)
        async with asyncio.timeout(60), aclosing(self.members.watch("gateway")) as snapshots:
            async for gateways in snapshots:
                for member in gateways.values():
                    if member.id not in self._known and member.address.endswith(f":{port}"):
                        self._known.add(member.id)
                        return Gateway(process, port, member.address, member.metadata["http"])
        raise AssertionError("watch never ends")

    async def log(self) -> list[workflow_pb2.LogEntry]:
        """What the call log holds now."""
        return [entry async for batch in replay(self.store) for entry in batch]

    def stop(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncGenerator[Gateways]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(tcp=True))
        endpoint = await stack.enter_async_context(serve_embedded())
        settings = Settings.model_validate(
            {
                "cluster": {"drain_seconds": 5.0},
                "registry": {"endpoints": (endpoint,)},
                "state": {"url": redis.url},
                "worker": {
                    "engine": "simulated",
                    "count": 2,
                    "model": "tiny",
                    "model_path": str(MODEL),
                    "max_num_seqs": MAX_RUNNING,
                },
                "simulated": {"profile": "tiny-cpu"},
            }
        )
        name = settings.cluster.name
        await stack.enter_async_context(scheduler.running(settings))
        await stack.enter_async_context(worker.running(settings))
        members = await stack.enter_async_context(registry.connect(settings.registry, name))
        store = await stack.enter_async_context(state.connect(StateSection(url=redis.url), name))
        gateways = Gateways(settings, members, store, folder)
        stack.callback(gateways.stop)
        yield gateways


@dataclass
class Progress:
    """How far the streams are."""

    tokens: Counter[str] = field(default_factory=Counter[str])
    """By program; none: it queues."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, program_id: str, num_tokens: int) -> None:
        self.tokens[program_id] += num_tokens
        async with self.changed:
            self.changed.notify_all()

    async def until(self, num_streams: int) -> None:
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: len(self.tokens) >= num_streams)


@dataclass(frozen=True)
class Heard:
    """What one stream said, by its pieces."""

    text: str
    arguments: str
    num_tokens: int
    num_logprobs: int
    reply: legato.Reply

    def said(self) -> tuple[object, ...]:
        """All but names and times."""
        usage = self.reply.usage
        calls = [(call.name, call.arguments) for call in self.reply.tool_calls]
        logprobs = [token.token_id for token in self.reply.logprobs]
        counts = (self.num_tokens, self.num_logprobs, usage.completion_tokens, usage.prompt_tokens)
        return (self.text, self.arguments, self.reply.text, calls, logprobs, self.reply.finish_reason, counts)


async def stream(client: legato.Client, name: str, index: int, progress: Progress) -> Heard:
    kind = KINDS[index % len(KINDS)]
    async with client.program(f"{name}-{index}") as program:
        agent = program.agent("writer", model="tiny", max_tokens=MAX_TOKENS, **kind)
        async with agent.stream(f"Write chapter {index} of a long book.") as output:
            pieces: list[legato.Piece] = []
            async for piece in output:
                pieces.append(piece)
                await progress.note(program.id, piece.num_tokens)
    return Heard(
        "".join(piece.text for piece in pieces),
        "".join(call.arguments for piece in pieces for call in piece.tool_calls),
        sum(piece.num_tokens for piece in pieces),
        sum(len(piece.logprobs) for piece in pieces),
        output.reply,
    )


async def all_streams(
    client: legato.Client, name: str, progress: Progress, num_streams: int = NUM_STREAMS
) -> list[Heard]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(stream(client, name, index, progress)) for index in range(num_streams)]
    return [task.result() for task in running]


async def ask(gateway: Gateway) -> str:
    """What an HTTP client is answered that asks with an Idempotency-Key; the answer's id is in it."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    url, headers = f"http://{gateway.http}/v1/chat/completions", {"Idempotency-Key": "once"}
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.text()


def ends(log: Sequence[workflow_pb2.LogEntry], name: str) -> Counter[str]:
    """Of each program of that name, how often a call of it ended."""
    programs = [entry.ended.program_id for entry in log if entry.HasField("ended")]
    return Counter(program for program in programs if program.startswith(f"{name}-"))


async def test_streams_go_on_token_for_token_at_another_gateway_or_at_the_next_life_of_their_own(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as gateways:
        lost, other = await asyncio.gather(gateways.start(), gateways.start())
        async with legato.Client(f"{lost.address},{other.address}") as free, AsyncExitStack() as stack:
            undisturbed = await all_streams(free, "calm", Progress())
            if free.address == other.address:  # it began at any of them
                lost, other = other, lost
            bound = await stack.enter_async_context(legato.Client(lost.address))
            await bound.models()  # a client is patient with a gateway that it had
            answer = await ask(lost)
            progress = Progress()
            async with asyncio.TaskGroup() as tasks:
                moving = tasks.create_task(all_streams(free, "moving", progress))
                staying = tasks.create_task(all_streams(bound, "staying", progress, len(KINDS)))
                await progress.until(MAX_RUNNING)
                lost.kill()
                before = progress.tokens.copy()
                await gateways.start(lost.port)
            assert free.address == other.address
            assert await ask(other) == answer
        other.process.terminate()  # it writes its log to the end
        await asyncio.to_thread(other.process.wait, 30)
        log = await gateways.log()
    assert [heard.said() for heard in moving.result()] == [heard.said() for heard in undisturbed]
    assert [heard.said() for heard in staying.result()] == [heard.said() for heard in undisturbed[: len(KINDS)]]
    assert all(heard.num_tokens == heard.reply.usage.completion_tokens for heard in moving.result())
    ended = ends(log, "moving")
    assert max(ended.values()) == 1
    went_on = [f"moving-{index}" for index in range(NUM_STREAMS) if KINDS[index % len(KINDS)].get("ignore_eos")]
    went_on = [program for program in went_on if before[program] < MAX_TOKENS / 2]
    assert went_on
    assert set(went_on) <= ended.keys()  # what ended before may have been on its way to the log
