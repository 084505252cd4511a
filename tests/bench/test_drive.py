"""Driving programs: calls wait for their parents and tools, failures are told, and the openai client says who calls."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from aiohttp import web

from bench.drive import Board, Message, Reply, conversation, drive
from bench.measure import end_s, failures
from bench.openai_client import OpenAIClient
from sim.programs import generate, mix
from sim.programs.laws import Scale
from sim.trace import Call, Program


class FakeClient:
    """Answers at once, unless the call's place in the program is in `failing`."""

    name = "fake"

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self._failing = failing
        self.chatted: list[tuple[str, int]] = []
        self.tools: list[str] = []

    @asynccontextmanager
    async def program(self, program: Program) -> AsyncGenerator["FakeSession"]:
        yield FakeSession(self, program)

    def answer(self, program: Program, call: Call) -> Reply:
        self.chatted.append((program.program_id, call.id))
        if call.id in self._failing:
            raise ConnectionError("worker gone\nand more")
        return Reply(
            asyncio.get_running_loop().time(), program.prompt_tokens(call), call.output_tokens, 0, 0.0, 0.0, 0.0
        )


class FakeSession:
    def __init__(self, client: FakeClient, program: Program) -> None:
        self._client = client
        self._program = program

    async def chat(self, call: Call, messages: Sequence[Message]) -> Reply:
        assert messages
        return self._client.answer(self._program, call)

    def tool(self, call: Call, name: str) -> nullcontext[None]:
        self._client.tools.append(name)
        return nullcontext()


def quick(shape: str, count: int) -> list[Program]:
    """Programs whose tools take next to no time."""
    return generate(shape, count, 1, Scale(context=32, output=8, calls=4, gaps=10_000))


async def test_a_call_is_issued_after_its_parents_and_their_tools():
    client, board = FakeClient(), Board()
    programs = quick("plan_execute", 2) + quick("map_reduce", 2)
    async with asyncio.timeout(10):
        done = await drive(programs, [client], board)
    for program in done:
        for call in program.calls:
            for parent in call.parents:
                gap_s = (call.measured.start_s or 0.0) - end_s(program.calls[parent])
                assert gap_s >= max(program.calls[parent].tool_s, default=0.0) - 1e-3
    assert [(program.program_id, len(program.calls)) for program in done] == [
        (program.program_id, len(program.calls)) for program in programs
    ]
    assert sorted(client.tools) == sorted(tool for program in programs for call in program.calls for tool in call.tools)
    assert (board.done, board.failed, board.calls_done, board.calls_open) == (4, 0, len(client.chatted), 0)


async def test_a_failed_call_ends_its_program_and_is_told():
    client, board = FakeClient(failing=[1]), Board()
    async with asyncio.timeout(10):
        (program,) = await drive(quick("debate", 1), [client], board)
    assert failures(program) == ["call 1: ConnectionError: worker gone"]
    assert [call for _, call in client.chatted] == [0, 1]
    assert (board.done, board.failed) == (0, 1)


async def test_an_output_of_the_wrong_length_is_a_failure():
    class Short(FakeClient):
        def answer(self, program: Program, call: Call) -> Reply:
            return Reply(None, 1, call.output_tokens - 1, 0)

    async with asyncio.timeout(10):
        (program,) = await drive(quick("debate", 1), [Short()])
    assert "output tokens instead of" in failures(program)[0]


async def test_each_shape_is_shared_evenly_between_the_clients():
    one, two = FakeClient(), FakeClient()
    programs = [program for shape in ("debate", "react") for program in quick(shape, 4)]
    async with asyncio.timeout(10):
        await drive(programs, [one, two])
    for client in (one, two):
        assert len({program for program, _ in client.chatted if program.startswith("debate")}) == 2
        assert len({program for program, _ in client.chatted if program.startswith("react")}) == 2


def test_prompts_share_their_beginning_as_the_segments_say():
    program = generate("react", 1, seed=1)[0]
    first, second = (conversation(program, call) for call in program.calls[:2])
    assert second[: len(first)] == first
    assert [message.role for message in second] == ["system", "user", "assistant", "user"]


async def test_the_openai_client_names_program_call_agent_and_parents():
    seen: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(({name.lower(): value for name, value in request.headers.items()}, body))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in _events(body["max_tokens"]):
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        async with asyncio.timeout(20):
            (program,) = await drive(quick("debate", 1), [OpenAIClient(f"http://{host}:{port}/v1", "tiny")])
    finally:
        await runner.cleanup()
    assert not failures(program)
    measured = program.calls[1].measured
    assert (measured.rec_cached, measured.queue_s, measured.client) == (64, 0.25, "openai")
    headers, body = seen[1]
    assert headers["x-legato-program-id"] == program.program_id
    assert (headers["x-legato-call-id"], headers["x-legato-parents"]) == ("1", "0")
    assert headers["x-legato-agent"] == program.calls[1].agent
    assert (body["ignore_eos"], body["stream"], body["model"]) == (True, True, "tiny")


def _events(num_tokens: int) -> list[dict[str, Any]]:
    chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": num_tokens,
        "total_tokens": 100 + num_tokens,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    timings = {"queue_seconds": 0.25, "prefill_seconds": 0.1, "decode_seconds": 0.2}
    return [
        {**chunk, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]},
        {**chunk, "choices": [], "usage": usage, "timings": timings, "worker_id": "w0"},
    ]


def test_all_four_shapes_make_conversations():
    for program in mix(4, seed=2, programs_per_second=1.0):
        for call in program.calls:
            assert all(message.content for message in conversation(program, call))
