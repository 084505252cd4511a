"""A request with an Idempotency-Key is answered once, whoever asks again, and wherever."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from redis.asyncio import from_url

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2
from services.common.config import StateSection
from services.gateway.service import running
from tests.gateway.conftest import Make, World, ready
from tests.gateway.fakes import Words, counting, text_output
from tests.servers.redis import redis_server

CHAT = "/v1/chat/completions"
KEY = {"Idempotency-Key": "order-66"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}


async def ask(
    http: aiohttp.ClientSession, headers: dict[str, str] | None = None, **fields: Any
) -> tuple[int, bytes, Any]:
    """Status, body and headers of the answer to a request with the key."""
    async with http.post(CHAT, json=chat(**fields), headers={**KEY, **(headers or {})}) as response:
        return response.status, await response.read(), response.headers


def text_of(body: bytes) -> str:
    """Of a stream."""
    lines = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    return "".join(line["choices"][0]["delta"].get("content", "") for line in lines if line["choices"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_asks_again_gets_the_same_answer(world: World, streamed: bool) -> None:
    status, first, headers = await ask(world.http, stream=streamed)
    again, second, replayed = await ask(world.http, stream=streamed)
    assert (status, again) == (200, 200)
    assert first == second
    assert len(world.worker.starts) == 1
    assert ("Idempotent-Replayed" in headers, replayed["Idempotent-Replayed"]) == (False, "true")
    same = ("Content-Type", "x-legato-program-id", "x-legato-call-id")
    assert [headers[name] for name in same] == [replayed[name] for name in same]


async def test_who_asks_meanwhile_hears_the_same_stream_from_its_beginning(world: World) -> None:
    world.worker.stop_after = 3
    async with world.http.post(CHAT, json=chat(stream=True), headers=KEY) as first:
        early = b""
        while not early.count(b'"content":" '):
            early += await first.content.readany()
        async with world.http.post(CHAT, json=chat(stream=True), headers=KEY) as second:
            world.worker.resume.set()
            whole = early + await first.read()
            assert await second.read() == whole
    assert text_of(whole) == " 0 1 2 3 4"
    assert len(world.worker.starts) == 1


async def test_who_asks_meanwhile_waits_for_a_whole_answer(world: World) -> None:
    world.worker.stop_after = 3
    asking = [asyncio.create_task(ask(world.http)) for _ in range(3)]
    await world.scheduler.wait_for("first_token")
    world.worker.resume.set()
    answers = [await task for task in asking]
    assert {(status, body) for status, body, _ in answers} == {(200, answers[0][1])}
    assert len(world.worker.starts) == 1


async def test_a_call_lives_as_long_as_somebody_listens(world: World) -> None:
    async def listen() -> aiohttp.ClientResponse:
        response = await world.http.post(CHAT, json=chat(stream=True), headers=KEY)
        await response.content.readany()
        return response

    world.worker.stop_after = 3
    first = await listen()
    second = await listen()
    first.close()
    third = await listen()
    second.close()
    fourth = await listen()
    assert world.worker.aborted == []
    third.close()
    fourth.close()
    await world.worker.wait_for(lambda worker: worker.aborted == [1])
    world.worker.stop_after = None
    assert text_of((await ask(world.http, stream=True))[1]) == " 0 1 2 3 4"


async def test_errors_are_not_kept(world: World) -> None:
    world.scheduler.rejection = scheduler_pb2.Rejection(reason="QUEUE_FULL", message="full")
    assert (await ask(world.http))[0] == 429
    world.scheduler.rejection = None
    assert (await ask(world.http))[0] == 200


async def test_a_stream_that_broke_off_is_not_kept(world: World) -> None:
    def broken(start: worker_pb2.StartCall) -> Words:
        finish = worker_pb2.Finish(reason=call_pb2.FINISH_REASON_ERROR, error_reason="INTERNAL")
        return [text_output(0, "half"), worker_pb2.CallOutput(offset=1, finish=finish)]

    world.worker.script = broken
    assert b'"error"' in (await ask(world.http, stream=True))[1]
    world.worker.script = counting(5)
    assert text_of((await ask(world.http, stream=True))[1]) == " 0 1 2 3 4"


async def test_a_key_is_for_one_request(world: World) -> None:
    await ask(world.http)
    status, body, _ = await ask(world.http, temperature=0.5)
    assert (status, json.loads(body)["error"]["code"]) == (422, "idempotency_key_reused")
    world.worker.stop_after = 0
    other = {"Idempotency-Key": "order-67"}
    asking = asyncio.create_task(ask(world.http, other))
    await world.worker.wait_for(lambda worker: len(worker.starts) == 2)
    assert (await ask(world.http, other, temperature=0.5))[0] == 422  # while it runs
    world.worker.resume.set()
    assert (await asking)[0] == 200


@pytest.mark.parametrize("name", ["x-legato-tenant", "Authorization"])
async def test_others_have_keys_of_their_own(world: World, name: str) -> None:
    await ask(world.http, {name: "acme"})
    status, _, headers = await ask(world.http, {name: "bolt"})
    assert status == 200
    assert "Idempotent-Replayed" not in headers
    assert len(world.worker.starts) == 2


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel"])
async def test_a_key_must_be_short_and_printable(world: World, key: str) -> None:
    status, body, _ = await ask(world.http, {"Idempotency-Key": key})
    assert (status, json.loads(body)["error"]["param"]) == (400, "Idempotency-Key")
    assert "255" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "section", [{"idempotency_seconds": 0.0}, {"idempotency_bytes": 1024}, {"idempotency_total_bytes": 1024}]
)
async def test_what_is_not_to_be_kept_is_made_again(make_world: Make, section: dict[str, Any]) -> None:
    async with make_world(**section) as world:
        world.worker.script = counting(400)
        for _ in range(2):
            status, _, headers = await ask(world.http)
            assert (status, "Idempotent-Replayed" in headers) == (200, False)
    assert len(world.worker.starts) == 2


async def test_what_there_is_no_room_for_is_made_again(make_world: Make) -> None:
    async with make_world(idempotency_total_bytes=3 * 1024) as world:  # of answers smaller than 1 KiB, three
        keys = [{"Idempotency-Key": f"order-{number}"} for number in range(5)]
        assert [(await ask(world.http, key))[0] for key in keys] == [200] * 5
        again = [await ask(world.http, key) for key in keys]
    assert [status for status, _, _ in again] == [200] * 5
    assert ["Idempotent-Replayed" in headers for _, _, headers in again] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("num_left", "behind"),
    [
        (-1, b""),
        (32, b""),
        (32, b"no JSON"),
        (32, b"[]\n"),
        (32, b'{"headers": {}, "streamed": false, "size_bytes": 3}\n{}'),
        (32, b'{"headers": {"Retry-After": 1}, "streamed": false}\n{}'),
        (32, b'{"headers": null, "streamed": false}\n{}'),
    ],
)
async def test_an_answer_that_cannot_be_read_is_made_again(make_world: Make, num_left: int, behind: bytes) -> None:
    with redis_server() as redis:
        async with make_world(state=StateSection(url=redis.url)) as world:
            _, first, _ = await ask(world.http)
            store: Any = from_url(redis.url)
            async with store:
                [name] = await store.keys("*idempotency/*")
                await store.set(name, (await store.get(name))[:num_left] + behind)
            status, _, headers = await ask(world.http)
            again, second, replayed = await ask(world.http)
    assert (status, "Idempotent-Replayed" in headers) == (200, False)
    assert (again, "Idempotent-Replayed" in replayed) == (200, True)
    assert json.loads(first)["choices"] == json.loads(second)["choices"]


async def test_an_answer_that_the_version_before_kept_is_given(make_world: Make) -> None:
    with redis_server() as redis:
        async with make_world(state=StateSection(url=redis.url)) as world:
            await ask(world.http)
            store: Any = from_url(redis.url)
            async with store:
                [name] = await store.keys("*idempotency/*")
                kept = (await store.get(name))[:32] + b'{"headers": {"X-Old": "yes"}, "streamed": false}\n{}'
                await store.set(name, kept)
            status, body, headers = await ask(world.http)
    assert (status, body, headers["X-Old"], headers["Idempotent-Replayed"]) == (200, b"{}", "yes", "true")


async def test_what_a_store_that_was_away_did_not_keep_takes_no_room(make_world: Make) -> None:
    with redis_server() as redis:
        section = StateSection(url=redis.url, timeout_seconds=0.1)
        async with make_world(state=section, idempotency_total_bytes=1024) as world:  # room for one
            redis.kill()
            assert (await ask(world.http))[0] == 200
            redis.start()
            async with asyncio.timeout(20):
                while "Idempotent-Replayed" not in (await ask(world.http))[2]:  # the store is back only to who asks it
                    pass


async def test_another_gateway_gives_the_answer_of_one_that_died(make_world: Make) -> None:
    with redis_server() as redis:
        async with make_world(state=StateSection(url=redis.url)) as world:
            status, body, _ = await ask(world.http)
            async with (
                running(world.settings) as other,
                aiohttp.ClientSession(f"http://{other.http_address}") as http,
            ):
                await ready(http)
                again, replayed, headers = await ask(http)
            assert (status, again, body) == (200, 200, replayed)
            assert headers["Idempotent-Replayed"] == "true"
            assert len(world.worker.starts) == 1


async def test_without_a_state_store_requests_are_answered_all_the_same(make_world: Make) -> None:
    with redis_server() as redis:
        async with make_world(state=StateSection(url=redis.url, timeout_seconds=0.1)) as world:
            redis.kill()
            assert [(await ask(world.http))[0] for _ in range(2)] == [200, 200]
