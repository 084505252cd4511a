"""Workers change their roles while calls run: none fails, all answers are as ever, and prefills are handed over.

The engines are simulated and pretend to use the host's KV pool, which runs but stays empty.
"""

import asyncio
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

import legato
from services.local.spawn import Stack
from tests.e2e.conftest import SIMULATED, running

NUM_LANES = 12
NUM_REPEATED = 60
HAND_OFFS = re.compile(r"^legato_gateway_hand_offs_total (\S+)$", re.MULTILINE)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    settings = {
        **SIMULATED,
        "worker.max_num_seqs": 8,
        "simulated.pool_id": "host-a",
        "kvpool.name": "host-a",
        "kvpool.directory": str(tmp_path / "pool"),
        "kvpool.dram_bytes": 1 << 20,
    }
    with running(settings, tmp_path / "log") as started:
        yield started


async def test_roles_change_while_calls_run(stack: Stack) -> None:
    answers: dict[tuple[str, int | None], legato.Reply] = {}
    enough = asyncio.Event()
    async with legato.Client(stack.address) as client:
        first, second = [worker.worker_id for worker in await client.workers()]
        async with asyncio.TaskGroup() as tasks:
            for index in range(NUM_LANES):
                tasks.create_task(_lane(client, index, answers, enough))
            await client.set_worker_role(first, "prefill")
            await _more_hand_offs(stack)
            assert [worker.role for worker in await client.workers()] == ["prefill", "both"]
            await _legato(stack, "workers", "role", first, "decode")
            await _legato(stack, "workers", "role", second, "prefill")
            await _more_hand_offs(stack)
            await client.set_worker_role(second, "both")
            enough.set()
        assert sum(reply.timings.restarts for reply in answers.values()) == 0
        program = client.program()
        async with program:
            for (prompt, seed), reply in itertools.islice(answers.items(), NUM_REPEATED):
                again = await _ask(program, prompt, seed, streamed=False)
                assert (again.text, again.finish_reason) == (reply.text, reply.finish_reason)
                assert again.usage.completion_tokens == reply.usage.completion_tokens
                assert again.usage.prompt_tokens == reply.usage.prompt_tokens


async def _lane(
    client: legato.Client, index: int, answers: dict[tuple[str, int | None], legato.Reply], enough: asyncio.Event
) -> None:
    """One call after another, each with a prompt of its own. Some can be handed over only from their beginning."""
    async with client.program(f"lane-{index}") as program:
        for turn in itertools.count():
            if enough.is_set():
                return
            prompt, seed = f"{index} {turn} " * 150, turn if index % 3 == 0 else None
            answers[prompt, seed] = await _ask(program, prompt, seed, streamed=index % 2 == 0)


async def _ask(program: legato.Program, prompt: str, seed: int | None, *, streamed: bool) -> legato.Reply:
    options = legato.CallOptions(model="tiny", temperature=0 if seed is None else 1, max_tokens=40)
    if seed is not None:
        options["seed"] = seed
    agent = program.agent("writer", **options)
    if not streamed:
        return await agent.chat(prompt)
    text = ""
    async with agent.stream(prompt) as stream:
        async for piece in stream:
            text += piece.text
    assert text == stream.reply.text
    return stream.reply


async def _more_hand_offs(stack: Stack) -> None:
    """Wait until calls were handed over from now on."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        before = await _hand_offs(http, stack)
        while True:
            if await _hand_offs(http, stack) >= before + NUM_LANES:
                return
            await asyncio.sleep(0.05)  # between two looks at the counter


async def _hand_offs(http: aiohttp.ClientSession, stack: Stack) -> float:
    async with http.get(f"{stack.base_url.removesuffix('/v1')}/metrics") as response:
        found = HAND_OFFS.search(await response.text())
    assert found is not None
    return float(found[1])


async def _legato(stack: Stack, *arguments: str) -> None:
    environ = {**os.environ, "LEGATO_ADDRESS": stack.address}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "legato", *arguments, env=environ)
    assert await process.wait() == 0
