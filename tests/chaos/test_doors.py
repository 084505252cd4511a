"""The HTTP client of a chaos run asks again under the same key, and takes nothing for whole that is not."""

import json
from collections.abc import Sequence

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.chaos.doors import HttpDoor
from bench.chaos.record import Record
from bench.chaos.reference import Message, Question

WHOLE = ("one", " two", "USAGE", "DONE")


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
    if piece == "USAGE":
        body = {"choices": [], "usage": {"completion_tokens": 2}}
    return f"data: {json.dumps(body)}\n\n".encode()


@pytest.mark.parametrize(
    ("scripts", "repeats"),
    [
        ([WHOLE], {}),
        ([("one",), WHOLE], {"http: stream cut off": 1}),
        ([("one", "USAGE"), WHOLE], {"http: stream cut off": 1}),
        ([("one", "ERROR", "DONE"), WHOLE], {"http: stream: engine_dead": 1}),
        ([503, 409, WHOLE], {"http: 503 no_scheduler": 1, "http: 409 no_scheduler": 1}),
    ],
)
async def test_it_asks_until_the_answer_is_whole(
    scripts: Sequence[int | Sequence[str]], repeats: dict[str, int]
) -> None:
    gateway, record = Gateway(scripts), Record()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", gateway.chat)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        door = HttpDoor(session, [server.make_url("/").authority], "model", record)
        async with door.program("p") as talk:
            answer = await talk.ask(Question((Message("user", "hello"),), 4), "")
    assert (answer.text, answer.num_tokens, record.counts()) == ("one two", 2, repeats)
    assert gateway.keys == ["p/call-1"] * len(scripts)
