"""Bad input gets a clear answer in bounded memory, and the next good request works. Table-driven, over plain HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from services.local.spawn import Stack

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
MOST_MEGABYTES = 20_000
"""The gateway hears a refused body out for two seconds, so that its sender sees the answer: far less than this."""
GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@dataclass(frozen=True)
class Case:
    """A request, and what the answer must be."""

    name: str
    body: bytes
    says: str = ""
    """Part of the message or the name of the parameter."""
    status: int = 400
    code: str = "invalid_argument"
    path: str = CHAT


def chat(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def number(field: str, text: str) -> bytes:
    """A number that json.dumps would not write."""
    return chat(**{field: "@"}).replace(b'"@"', text.encode())


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}

CASES = [
    Case("malformed JSON", b'{"model": "tiny", '),
    Case("not an object", b"[1, 2]"),
    Case("empty body", b""),
    Case("invalid UTF-8", b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    Case("nested too deep", b'{"messages": ' + b"[" * 100_000),
    Case("unknown model", chat(model="gpt-17"), "gpt-17", 404, "model_not_found"),
    Case("no messages", chat(messages=[]), "messages"),
    Case("messages of a wrong type", chat(messages="hello"), "messages"),
    Case("unknown role", chat(messages=[{"role": "king", "content": "x"}]), "role"),
    Case("image", chat(messages=[{"role": "user", "content": [IMAGE]}]), "content"),
    Case("zero tokens", chat(max_tokens=0), "max_tokens"),
    Case("negative tokens", chat(max_tokens=-5), "max_tokens"),
    Case("tokens beyond any context", chat(max_tokens=10**30), "max_tokens"),
    Case("hot", chat(temperature=9), "temperature"),
    Case("infinite number", number("temperature", "1e400"), "temperature"),
    Case("not a number", number("temperature", "NaN")),
    Case("top_p of a wrong type", chat(top_p="much"), "top_p"),
    Case("too many choices", chat(n=10_000), "n"),
    Case("unknown tool", chat(tool_choice={"type": "function", "function": {"name": "nope"}}), "tool_choice"),
    Case("schema that is none", chat(response_format=NO_SCHEMA)),
    Case("beyond the context", chat(messages=[{"role": "user", "content": "word " * 60_000}]), "tokens",
         code="context_length_exceeded"),
    Case("no such token", json.dumps({"model": "tiny", "prompt": [10**7]}).encode(), path=COMPLETIONS),
    Case("unknown path", b"{}", status=404, code="path_not_found", path="/nothing"),
]  # fmt: skip


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def works(http: aiohttp.ClientSession, stack: Stack) -> None:
    async with http.post(f"{stack.base_url}{CHAT}", json=GOOD) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_bad_request_is_explained(http: aiohttp.ClientSession, simulated_stack: Stack, case: Case) -> None:
    headers = {"content-type": "application/json"}
    async with http.post(f"{simulated_stack.base_url}{case.path}", data=case.body, headers=headers) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (case.status, case.code), error
    assert case.says in error["message"] or case.says in (error["param"] or "")
    await works(http, simulated_stack)


async def test_a_body_without_end_is_refused_unread(http: aiohttp.ClientSession, simulated_stack: Stack) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"model": "tiny", "messages": [{"role": "user", "content": "'
        for _ in range(MOST_MEGABYTES):
            sent += 1
            yield b"x" * 1_000_000

    try:
        async with http.post(f"{simulated_stack.base_url}{CHAT}", data=body()) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "body_too_large"
    except aiohttp.ClientConnectionError:
        pass  # the gateway may hang up on a body that nobody wants
    assert sent < MOST_MEGABYTES, "the gateway read a body far beyond its limit"
    await works(http, simulated_stack)


async def test_a_slow_reader_delays_only_itself(http: aiohttp.ClientSession, simulated_stack: Stack) -> None:
    body = {**GOOD, "max_tokens": 3000, "stream": True, "ignore_eos": True}
    async with http.post(f"{simulated_stack.base_url}{CHAT}", json=body) as slow:
        await slow.content.readline()
        async with asyncio.timeout(30):
            await asyncio.gather(*(works(http, simulated_stack) for _ in range(8)))
        text = (await slow.content.read()).decode()
    assert text.rstrip().endswith("data: [DONE]")
    last = json.loads(text.rstrip().split("\n\n")[-2].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length"


async def test_ten_thousand_calls_are_queued_or_refused_with_a_reason(
    http: aiohttp.ClientSession, simulated_stack: Stack
) -> None:
    """Each is answered 200 or 429, the latter with a reason and a time to come back."""
    connector = aiohttp.TCPConnector(limit=0)
    answers: dict[int, int] = {}

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{simulated_stack.base_url}{CHAT}", json={**GOOD, "max_tokens": 1}) as response:
            body = await response.json()
            answers[response.status] = answers.get(response.status, 0) + 1
            if response.status != 200:
                assert body["error"]["code"] in ("queue_full", "too_many_calls"), body
                assert float(response.headers["retry-after"]) > 0

    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(110)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(10_000):
            tasks.create_task(one(session))
    assert set(answers) <= {200, 429}, answers
    assert sum(answers.values()) == 10_000
    await works(http, simulated_stack)
