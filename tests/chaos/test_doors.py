"""The HTTP client of a chaos run asks again under the same key, and takes nothing for whole that is not."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.chaos import doors
from bench.chaos.doors import HttpDoor, Talk
from bench.chaos.record import Record
from bench.chaos.reference import Message, Question

WHOLE = ("one", " two", "END", "USAGE", "DONE")


class Gateway:
    """Answers the n-th request by the n-th script: a status, or pieces of a stream, which is cut off after them."""

    def __init__(self, scripts: Sequence[int | Sequence[str]]) -> None:
        self.keys: list[str] = []
        self._scripts = list(scripts)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers["Idempotency-Key"])
        script = self._scripts.pop(0)
        if isinstance(script, int):
            return web.json_response({"error": {"code": "no_scheduler"}}, status=script, headers={"Retry-After": "0"})
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in script:
            await response.write(_event(piece))
        return response


def _event(piece: str) -> bytes:
    if piece == "DONE":
        return b"data: [DONE]\n\n"
    if piece == "ERROR":
        return b'data: {"error": {"code": "engine_dead"}}\n\n'
    body: dict[str, object] = {"choices": [{"delta": {"content": piece}}]}
    if piece == "END":
        body = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    if piece == "USAGE":
        body = {"choices": [], "usage": {"completion_tokens": 2}}
    return f"data: {json.dumps(body)}\n\n".encode()


QUESTION = Question((Message("user", "hello"),), 4)


@asynccontextmanager
async def talking(gateway: Gateway, record: Record) -> AsyncGenerator[Talk]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", gateway.chat)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        door = HttpDoor(session, [server.make_url("/").authority], "model", record)
        async with door.program("p") as talk:
            yield talk


@pytest.mark.parametrize(
    ("scripts", "repeats"),
    [
        ([WHOLE], {}),
        ([("one",), WHOLE], {"http: stream cut off": 1}),
        ([("one", "END", "USAGE"), WHOLE], {"http: stream cut off": 1}),
        ([("one", "ERROR", "DONE"), WHOLE], {"http: stream: engine_dead": 1}),
        ([503, 409, WHOLE], {"http: 503 no_scheduler": 1, "http: 409 no_scheduler": 1}),
    ],
)
async def test_it_asks_until_the_answer_is_whole(
    scripts: Sequence[int | Sequence[str]], repeats: dict[str, int]
) -> None:
    gateway, record = Gateway(scripts), Record()
    async with talking(gateway, record) as talk:
        answer = await talk.ask(QUESTION, "")
    assert (answer.text, answer.num_tokens, record.counts()) == ("one two", 2, repeats)
    assert gateway.keys == ["p/call-1"] * len(scripts)
    assert not record.misended
    assert not record.wrong


@pytest.mark.parametrize(
    ("script", "odd"),
    [
        (("one", "END", "END", "USAGE", "DONE"), "after its end"),
        (("one", "END", " two", "USAGE", "DONE"), "after its end"),
        (("one", "END", "USAGE", "USAGE", "DONE"), "after its usage"),
        ((*WHOLE, "DONE"), "[DONE] after its [DONE]"),
        ((*WHOLE, "three"), "after its [DONE]"),
        ((*WHOLE, "ERROR"), "after its [DONE]"),
        (("one", "USAGE", "DONE"), "usage without an end"),
    ],
)
async def test_a_stream_that_ends_but_not_once_is_seen(script: Sequence[str], odd: str) -> None:
    record = Record()
    async with talking(Gateway([script, WHOLE]), record) as talk:
        await talk.ask(QUESTION, "")
    (misended,) = record.misended
    assert odd in misended


async def test_a_call_that_says_something_else_when_it_is_asked_again_is_seen() -> None:
    record, other = Record(), ("one", " three", "END", "USAGE", "DONE")
    gateway = Gateway([WHOLE, WHOLE, WHOLE, WHOLE, other])
    async with talking(gateway, record) as talk:
        answers = [await talk.ask(QUESTION, "") for _ in range(4)]
    assert [answer.text for answer in answers] == ["one two"] * 4
    assert gateway.keys[-2:] == ["p/call-4", "p/call-4"]
    assert [(again.call_id, again.num_tries) for again in record.once_more] == [("call-4", 1)]
    assert record.misended == ["p/call-4: 'one three' the second time, and 'one two' the first"]


async def test_what_tries_said_is_judged_also_when_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "PATIENCE_SECONDS", 0.0)
    record = Record()
    async with talking(Gateway([("one", "END", "END")]), record) as talk:
        with pytest.raises(Exception, match="stream cut off"):
            await talk.ask(QUESTION, "")
    (misended,) = record.misended
    assert "after its end" in misended


async def test_a_try_that_was_cut_off_and_said_something_else_is_seen() -> None:
    record = Record()
    async with talking(Gateway([("once",), WHOLE]), record) as talk:
        await talk.ask(QUESTION, "")
    assert len(record.wrong) == 1
