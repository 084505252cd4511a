"""Whatever a client sends: a clear refusal, and the next good request works."""

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.conftest import Make, World

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": HELLO, **fields}).encode()


def raw(text: str) -> bytes:
    """A good chat with `text` among its fields as it stands."""
    return chat()[:-1] + b", " + text.encode() + b"}"


TABLE: list[tuple[str, str, bytes, int, str | None, str]] = [
    ("nothing", CHAT, b"", 400, None, "not valid JSON"),
    ("half a body", CHAT, b'{"model": "tiny", "mess', 400, None, "not valid JSON"),
    ("no object", CHAT, b"[]", 400, None, "object"),
    ("invalid UTF-8", CHAT, chat().replace(b"hello", b"\xff\xfe"), 400, None, "unicode"),
    ("lone surrogate", CHAT, chat().replace(b"hello", b"\\ud800"), 400, None, "not valid JSON"),
    ("nesting bomb", CHAT, b'{"messages": ' + b"[" * 100_000, 400, None, "recursion limit"),
    ("nested schema", CHAT, raw('"guided_json": ' + '{"a":' * 500 + "1" + "}" * 500), 400, None, "recursion limit"),
    ("no messages", CHAT, b'{"model": "tiny"}', 400, "messages", "required"),
    ("empty messages", CHAT, chat(messages=[]), 400, "messages", "at least 1"),
    ("messages of text", CHAT, chat(messages="hello"), 400, "messages", "array"),
    ("unknown role", CHAT, chat(messages=[{"role": "boss", "content": "x"}]), 400, "messages[0].role", "boss"),
    ("number as content", CHAT, chat(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content", "string"),
    (
        "an image",
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        400,
        "messages[0].content",
        "image_url",
    ),
    ("unknown model", CHAT, chat(model="gpt-9"), 404, "model", "gpt-9"),
    ("model of number", CHAT, chat(model=7), 400, "model", "string"),
    ("infinite temperature", CHAT, raw('"temperature": 1e400'), 400, "temperature", "finite"),
    ("temperature NaN", CHAT, raw('"temperature": NaN'), 400, "temperature", "finite"),
    ("negative temperature", CHAT, chat(temperature=-1), 400, "temperature", "greater than or equal to 0"),
    ("temperature of text", CHAT, chat(temperature="1"), 400, "temperature", "number"),
    ("top_p 0", CHAT, chat(top_p=0), 400, "top_p", "greater than 0"),
    ("no tokens", CHAT, chat(max_tokens=0), 400, "max_tokens", "greater than or equal to 1"),
    ("negative tokens", CHAT, chat(max_tokens=-5), 400, "max_tokens", "greater than or equal to 1"),
    ("a third of a token", CHAT, chat(max_tokens=0.3), 400, "max_tokens", "integer"),
    ("huge integer", CHAT, raw('"max_tokens": ' + "9" * 40), 400, "max_tokens", "less than or equal to"),
    ("enormous integer", CHAT, raw('"max_tokens": ' + "9" * 9000), 400, None, "out of range"),
    ("huge seed", CHAT, raw('"seed": 99999999999999999999'), 400, "seed", "less than or equal to"),
    ("no choice", CHAT, chat(n=0), 400, "n", "greater than or equal to 1"),
    ("a million choices", CHAT, chat(n=1_000_000), 400, "n", "at most 16"),
    ("empty stop", CHAT, chat(stop=""), 400, "stop[0]", "at least 1"),
    ("many stops", CHAT, chat(stop=["x"] * 100), 400, "stop", "at most 32"),
    ("logprobs as number", CHAT, chat(logprobs=3), 400, "logprobs", "boolean"),
    ("many logprobs", CHAT, chat(logprobs=True, top_logprobs=99), 400, "top_logprobs", "20"),
    ("bias of words", CHAT, chat(logit_bias={"word": 1}), 400, "logit_bias", "token ids"),
    ("bias beyond the vocabulary", CHAT, chat(logit_bias={"99999999": 1}), 400, "logit_bias", "below 768"),
    ("infinite bias", CHAT, raw('"logit_bias": {"1": 1e999}'), 400, "logit_bias.1", "finite"),
    ("min above max", CHAT, chat(max_tokens=5, min_tokens=6), 400, "min_tokens", "5"),
    ("tool without name", CHAT, chat(tools=[{"type": "function", "function": {}}]), 400, None, "name"),
    ("unknown named tool", CHAT, chat(tool_choice={"type": "function", "function": {"name": "f"}}), 400, None, "'f'"),
    ("required without tools", CHAT, chat(tool_choice="required"), 400, "tool_choice", "needs tools"),
    ("made-up tool choice", CHAT, chat(tool_choice="maybe"), 400, "tool_choice", "'auto'"),
    ("schema missing", CHAT, chat(response_format={"type": "json_schema"}), 400, None, "schema"),
    ("two constraints", CHAT, chat(guided_regex="a", guided_choice=["a"]), 400, None, "only one"),
    ("schema with NaN", CHAT, raw('"guided_json": {"a": NaN}'), 400, "guided_json", "finite"),
    ("taken template variable", CHAT, chat(chat_template_kwargs={"messages": []}), 400, None, "no template variable"),
    ("long chat", CHAT, chat(messages=[{"role": "user", "content": "go " * 5000}]), 400, "messages", "2048"),
    ("no prompt", COMPLETION, b'{"model": "tiny"}', 400, "prompt", "required"),
    ("empty prompt", COMPLETION, b'{"prompt": ""}', 400, "prompt", "empty"),
    ("empty list", COMPLETION, b'{"prompt": []}', 400, "prompt", "not empty"),
    ("prompt of object", COMPLETION, b'{"prompt": {}}', 400, "prompt", "token ids"),
    ("negative token", COMPLETION, b'{"prompt": [1, -1]}', 400, "prompt", "token ids"),
    ("token beyond the vocabulary", COMPLETION, b'{"prompt": [99999]}', 400, "prompt", "below 768"),
    ("mixed prompt", COMPLETION, b'{"prompt": [1, "a"]}', 400, "prompt", "token ids"),
    ("a thousand prompts", COMPLETION, json.dumps({"prompt": ["a"] * 1000}).encode(), 400, "prompt", "at most 128"),
    ("echo", COMPLETION, b'{"prompt": "a", "echo": true}', 400, "echo", "not supported"),
]


async def test_each_bad_request_is_refused_clearly_and_the_next_good_one_works(world: World) -> None:
    for name, path, body, status, field, words in TABLE:
        got, answer, headers = await world.post(path, body)
        error = answer["error"]
        assert got == status, f"{name}: {got} {error}"
        assert words in error["message"], f"{name}: {error}"
        assert len(error["message"]) < 500, f"{name}: {error}"
        assert field is None or error["param"] == field, f"{name}: {error}"
        assert headers["x-legato-reason"] == error["code"]
        assert "Traceback" not in error["message"]
        good, _, _ = await world.post(CHAT, chat(max_tokens=5))
        assert good == 200, name
    assert len(world.worker.starts) == len(TABLE)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "path_not_found"),
        ("POST", "/", 404, "path_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/" + "a" * 5000, 404, "path_not_found"),
    ],
)
async def test_unknown_paths_and_methods(world: World, method: str, path: str, status: int, code: str) -> None:
    async with world.http.request(method, path) as response:
        assert response.status == status
        assert (await response.json())["error"]["code"] == code


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-legato-program-id", "a/b"),
        ("x-legato-program-id", ".."),
        ("x-legato-program-id", "a b"),
        ("x-legato-program-id", "p" * 257),
        ("x-legato-call-id", "c" * 257),
        ("x-legato-agent", "ü" * 129),
        ("x-legato-tenant", "t\tt"),
        ("x-legato-parents", ",".join("p" * 1 for _ in range(1025))),
    ],
)
async def test_ids_that_cannot_be_used(world: World, header: str, value: str) -> None:
    status, answer, _ = await world.post(CHAT, chat(), **{header: value})
    assert status == 400, answer
    assert header.removeprefix("x-legato-").replace("-", "_") in answer["error"]["message"].replace("-", "_")


async def test_a_body_beyond_the_limit_is_refused_unread(make_world: Make) -> None:
    async with make_world(max_body_bytes=100_000) as world:
        host, _, port = world.gateway.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n".encode())
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b"413" in head.split(b"\r\n")[0]
        writer.close()
        status, answer, _ = await world.post(CHAT, chat(user="u" * 200_000))
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
        assert (await world.post(CHAT, chat()))[0] == 200


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(make_world: Make) -> None:
    async def endless() -> Any:
        while True:
            yield b"x" * 65_536

    async with make_world(max_body_bytes=300_000) as world:
        async with asyncio.timeout(10), world.http.post(CHAT, data=endless()) as response:
            assert response.status == 413
        assert (await world.post(CHAT, chat()))[0] == 200


async def test_a_client_that_never_sends_its_body_is_let_go(make_world: Make) -> None:
    async with make_world(body_timeout_seconds=0.05) as world:
        host, _, port = world.gateway.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n".encode())
        async with asyncio.timeout(5):
            assert b"504" in await reader.readuntil(b"\r\n")
        writer.close()


async def test_bodies_that_are_not_what_they_say(world: World) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with world.http.post(CHAT, data=b"this is no gzip", headers=headers) as response:
        assert response.status == 400
    assert (await world.post(CHAT, chat()))[0] == 200


async def test_long_requests_are_served_like_short_ones(make_world: Make) -> None:
    async with make_world(inline_bytes=10, verify_every=1) as world:
        status, answer, _ = await world.post(CHAT, chat())
        assert (status, answer["choices"][0]["message"]["content"]) == (200, " 0 1 2 3 4")
        assert (await world.post(CHAT, b"{"))[0] == 400


async def test_health_and_information(world: World) -> None:
    for path in ("/health", "/healthz", "/livez", "/readyz", "/ping", "/version"):
        async with world.http.get(path) as response:
            assert response.status == 200
            await response.json()
    await world.post(CHAT, chat())
    async with world.http.get("/metrics") as response:
        text = await response.text()
    assert 'legato_gateway_calls_total{model="tiny",outcome="stop"}' in text
