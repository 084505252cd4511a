"""The life of calls: refused, cancelled, lost and found again."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2
from services.common.registry import Member
from tests.gateway.conftest import Make, World
from tests.gateway.fakes import FakeScheduler, Words, counting, ending, serving, text_output

CHAT = "/v1/chat/completions"
TEN = "".join(f" {index}" for index in range(10))


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The JSON of each event; None for a keep-alive."""
    async for line in response.content:
        if line.startswith(b":"):
            yield None
        elif line.startswith(b"data: {"):
            yield json.loads(line[6:])


async def text_of(response: aiohttp.ClientResponse) -> str:
    return "".join(
        [event["choices"][0]["delta"].get("content", "") async for event in events(response) if event["choices"]]
    )


async def read_until(response: aiohttp.ClientResponse, word: str) -> str:
    """Text up to the piece that ends with `word`."""
    text = ""
    async with asyncio.timeout(10):
        async for event in events(response):
            text += event["choices"][0]["delta"].get("content", "")
            if text.endswith(word):
                return text
    raise AssertionError(f"{word!r} did not come: {text!r}")


async def test_a_caller_learns_who_it_is(world: World) -> None:
    headers = {"x-legato-program-id": "p1", "x-legato-call-id": "c1", "x-legato-agent": "coder"}
    more = {
        "x-legato-step": "draft",
        "x-legato-thread": "a/b",
        "x-legato-parents": "c0, c00",
        "x-legato-tenant": "acme",
    }
    _, _, answered = await world.post(CHAT, chat(cache_salt="mine"), **headers, **more)
    assert answered["x-legato-program-id"] == "p1"
    assert answered["x-legato-call-id"] == "c1"
    assert answered["x-legato-identity-source"] == "legato"
    start = world.worker.starts[0]
    identity = start.identity
    assert (identity.program_id, identity.call_id, identity.agent) == ("p1", "c1", "coder")
    assert (identity.step, identity.thread, list(identity.parents)) == ("draft", "a/b", ["c0", "c00"])
    assert start.cache_salt not in ("", "mine")
    [submit] = world.scheduler.said("submit")
    assert submit.identity == identity


async def test_anonymous_calls_are_programs_of_their_own(world: World) -> None:
    _, _, first = await world.post(CHAT, chat())
    _, _, second = await world.post(CHAT, chat())
    assert first["x-legato-identity-source"] == "anonymous"
    assert first["x-legato-program-id"] != second["x-legato-program-id"]
    assert world.worker.starts[0].cache_salt == ""


async def test_the_trace_goes_on_to_the_worker(world: World) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await world.post(CHAT, chat(), traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert trace in world.worker.starts[0].traceparent


async def test_the_scheduler_hears_of_each_step(world: World) -> None:
    await world.post(CHAT, chat())
    [finish] = await world.scheduler.wait_for("finish")
    assert [event.WhichOneof("event") for event in world.scheduler.events] == [
        "hello",
        "submit",
        "first_token",
        "finish",
    ]
    assert finish.reason == call_pb2.FINISH_REASON_STOP
    assert finish.usage.completion_tokens == 5
    assert finish.timings.decode_seconds == 1.0
    [submit] = world.scheduler.said("submit")
    assert submit.prompt_tokens == len(world.worker.starts[0].prompt_token_ids)
    assert len(submit.block_hashes) == submit.prompt_tokens // 32


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_has_a_status_a_reason_and_a_time_to_come_back(world: World, streamed: bool) -> None:
    world.scheduler.rejection = scheduler_pb2.Rejection(
        reason="QUEUE_FULL", message="20000 calls wait", retry_after_seconds=2.5
    )
    status, answer, headers = await world.post(CHAT, chat(stream=streamed))
    assert status == 429
    assert answer["error"] == {
        "message": "20000 calls wait",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }
    assert headers["Retry-After"] == "3"
    assert headers["x-legato-reason"] == "queue_full"
    world.scheduler.rejection = None
    assert (await world.post(CHAT, chat()))[0] == 200


async def test_an_engines_complaint_reaches_the_caller(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        finish = worker_pb2.Finish(
            reason=call_pb2.FINISH_REASON_ERROR, error_reason="INVALID_ARGUMENT", error_message="no such grammar"
        )
        return [worker_pb2.CallOutput(finish=finish)]

    world.worker.script = script
    status, answer, _ = await world.post(CHAT, chat())
    assert (status, answer["error"]["message"]) == (400, "no such grammar")


async def test_more_calls_than_fit_are_refused(make_world: Make) -> None:
    async with make_world(max_calls_in_flight=2) as world:
        world.worker.stop_after = 0
        async with world.http.post(CHAT, json=chat(stream=True, n=2)):
            status, answer, headers = await world.post(CHAT, chat())
            assert (status, answer["error"]["code"]) == (429, "too_many_calls")
            assert "Retry-After" in headers
            world.worker.resume.set()


async def test_a_running_call_cannot_be_started_twice(world: World) -> None:
    world.worker.stop_after = 2
    headers = {"x-legato-program-id": "p", "x-legato-call-id": "c"}
    async with world.http.post(CHAT, json=chat(stream=True), headers=headers) as response:
        status, answer, _ = await world.post(CHAT, chat(), **headers)
        assert (status, answer["error"]["code"]) == (409, "call_exists")
        world.worker.resume.set()
        assert await text_of(response) == " 0 1 2 3 4"
    assert (await world.post(CHAT, chat(), **headers))[0] == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_goes_away_aborts_its_running_call(world: World, streamed: bool) -> None:
    world.worker.stop_after = 2
    asking = asyncio.create_task(world.post(CHAT, chat(stream=streamed)))
    await world.worker.wait_for(lambda worker: len(worker.starts) == 1)
    await world.scheduler.wait_for("first_token")
    asking.cancel()
    await world.worker.wait_for(lambda worker: worker.aborted == [1])
    [finish] = await world.scheduler.wait_for("finish")
    assert finish.reason == call_pb2.FINISH_REASON_ABORT


async def test_a_client_that_goes_away_withdraws_its_queued_call(world: World) -> None:
    world.scheduler.holding = True
    asking = asyncio.create_task(world.post(CHAT, chat()))
    await world.scheduler.wait_for("submit")
    asking.cancel()
    [finish] = await world.scheduler.wait_for("finish")
    assert finish.reason == call_pb2.FINISH_REASON_ABORT
    assert world.worker.starts == []


async def test_a_queued_stream_shows_that_it_is_alive(make_world: Make) -> None:
    async with make_world(early_headers_seconds=0.01, keepalive_seconds=0.02) as world:
        world.scheduler.holding = True
        async with world.http.post(CHAT, json=chat(stream=True)) as response:
            assert response.status == 200
            seen = events(response)
            assert (await anext(seen))["choices"][0]["delta"]["role"] == "assistant"
            assert await anext(seen) is None
            world.scheduler.release()
            text = "".join([e["choices"][0]["delta"].get("content", "") async for e in seen if e and e["choices"]])
        assert text == " 0 1 2 3 4"


async def test_a_refusal_after_the_headers_is_an_event(make_world: Make) -> None:
    async with make_world(early_headers_seconds=0.0) as world:
        world.scheduler.holding = True
        async with world.http.post(CHAT, json=chat(stream=True)) as response:
            seen = events(response)
            await anext(seen)
            world.scheduler.rejection = scheduler_pb2.Rejection(reason="QUEUE_TIMEOUT", message="too late")
            world.scheduler.release()
            last = [event async for event in seen][-1]
        assert last["error"]["code"] == "queue_timeout"


async def test_a_stream_that_lost_its_worker_goes_on_without_a_gap(make_world: Make) -> None:
    async with make_world(num_workers=2) as world:
        first, second = world.workers
        first.script = second.script = counting(10)
        first.stop_after = 4
        async with world.http.post(CHAT, json=chat(stream=True)) as response:
            text = await read_until(response, " 3")
            await first.die()
            text += await text_of(response)
        assert text == TEN
        [start] = second.starts
        assert start.num_resumed_tokens == 4
        assert list(start.prompt_token_ids[-4:]) == [100, 101, 102, 103]
        [lose] = world.scheduler.said("lose")
        assert (lose.attempt, lose.generated_tokens) == (1, 4)
        [finish] = await world.scheduler.wait_for("finish")
        assert [token.attempt for token in world.scheduler.said("first_token")] == [1, 2]
        assert finish.attempt == 2


async def test_the_restart_is_told(make_world: Make) -> None:
    async with make_world(num_workers=2) as world:
        world.workers[0].stop_after = 2
        asking = asyncio.create_task(world.post(CHAT, chat()))
        await world.scheduler.wait_for("first_token")
        await world.workers[0].die()
        status, answer, _ = await asking
    assert (status, answer["choices"][0]["message"]["content"]) == (200, " 0 1 2 3 4")
    assert answer["timings"]["restarts"] == 1
    assert answer["timings"]["decode_seconds"] > 1.0  # the lost attempt took time, too
    assert answer["usage"]["completion_tokens"] == 5


async def test_a_constrained_call_that_nobody_saw_starts_anew(make_world: Make) -> None:
    async with make_world(num_workers=2) as world:
        world.workers[0].stop_after = 2
        asking = asyncio.create_task(world.post(CHAT, chat(response_format={"type": "json_object"})))
        await world.scheduler.wait_for("first_token")
        await world.workers[0].die()
        _, answer, _ = await asking
        assert answer["choices"][0]["message"]["content"] == " 0 1 2 3 4"
        assert world.workers[1].starts[0].num_resumed_tokens == 0


async def test_a_constrained_call_that_was_seen_goes_on_at_the_worker(make_world: Make) -> None:
    async with make_world(num_workers=2) as world:
        world.workers[0].stop_after = 2
        async with world.http.post(CHAT, json=chat(stream=True, guided_regex=".*")) as response:
            await read_until(response, " 1")
            await world.workers[0].die()
            assert await text_of(response) == " 2 3 4"
        assert world.workers[1].starts[0].num_resumed_tokens == 2


async def test_a_worker_that_leaves_tokens_out_is_found_out(world: World) -> None:
    world.worker.script = lambda start: [text_output(0, "a"), text_output(2, "c")]
    status, answer, _ = await world.post(CHAT, chat())
    assert (status, answer["error"]["code"]) == (500, "internal")
    await world.worker.wait_for(lambda worker: worker.aborted == [1])


async def test_calls_that_kill_workers_fail_in_the_end(make_world: Make) -> None:
    def drained(start: worker_pb2.StartCall) -> Words:
        finish = worker_pb2.Finish(reason=call_pb2.FINISH_REASON_ERROR, error_reason="ENGINE_DEAD")
        return [worker_pb2.CallOutput(finish=finish)]

    async with make_world(max_restarts=2) as world:
        world.worker.script = drained
        status, answer, _ = await world.post(CHAT, chat())
        assert (status, answer["error"]["code"]) == (503, "engine_dead")
        assert len(world.worker.starts) == 3


async def test_a_running_call_outlives_the_schedulers_stream(world: World) -> None:
    world.worker.script = counting(10)
    world.worker.stop_after = 4
    async with world.http.post(CHAT, json=chat(stream=True)) as response:
        text = await read_until(response, " 3")
        world.scheduler.hang_up()
        before, again = await world.scheduler.wait_for("submit", 2)
        assert (again.prompt_tokens, again.max_tokens) == (before.prompt_tokens, before.max_tokens)
        assert (again.attempt, again.worker_id) == (1, "worker-0")
        assert len(world.scheduler.said("hello")) == 2
        world.worker.resume.set()
        text += await text_of(response)
    assert text == TEN
    assert len(world.worker.starts) == 1


async def test_a_queued_call_is_announced_to_the_next_leader(world: World) -> None:
    world.scheduler.holding = True
    asking = asyncio.create_task(world.post(CHAT, chat()))
    await world.scheduler.wait_for("submit")
    world.scheduler.leads = False
    successor = FakeScheduler()
    successor.workers = world.workers
    async with serving(successor, world.registry, "scheduler-2"):
        world.scheduler.hang_up()
        status, _, _ = await asking
    assert status == 200
    [submit] = successor.said("submit")
    assert submit.attempt == 0


async def test_without_a_scheduler_calls_are_refused_and_the_gateway_is_not_ready(make_world: Make) -> None:
    async with make_world(scheduler_grace_seconds=0.05) as world:
        world.scheduler.leads = False
        world.scheduler.hang_up()
        status, answer, headers = await world.post(CHAT, chat())
        assert (status, answer["error"]["code"]) == (503, "no_scheduler")
        assert "Retry-After" in headers
        async with world.http.get("/readyz") as response:
            assert response.status == 503
        async with world.http.get("/livez") as response:
            assert response.status == 200


async def test_a_slow_reader_holds_up_nobody_and_misses_nothing(make_world: Make) -> None:
    word, words = "x" * 4096, 3000  # more than what the sockets hold

    def script(start: worker_pb2.StartCall) -> Words:
        outputs = [text_output(index, word) for index in range(words)]
        return [*outputs, worker_pb2.CallOutput(offset=words, finish=ending(start, words))]

    async with make_world() as world:
        world.worker.script = script
        host, _, port = world.gateway.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**12)
        body = json.dumps(chat(stream=True)).encode()
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        await world.scheduler.wait_for("finish")  # all of it is there, though nobody read it
        world.worker.script = counting(5)
        assert (await world.post(CHAT, chat()))[0] == 200
        async with asyncio.timeout(20):
            raw = await _drain(reader)
        text = "".join(
            json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            for line in raw.split(b"\n")
            if line.startswith(b"data: {")
        )
        writer.close()
    assert text == word * words


async def _drain(reader: asyncio.StreamReader) -> bytes:
    """The body of a chunked answer up to its end."""
    body: list[bytes] = []
    while not body or not body[-1].endswith(b"data: [DONE]\n\n"):
        size = int(await reader.readline(), 16)
        body.append(await reader.readexactly(size))
        await reader.readexactly(2)
    return b"".join(body)


async def test_a_reader_that_takes_nothing_is_given_up(make_world: Make) -> None:
    async with make_world(stalled_reader_seconds=0.2) as world:

        def endless(start: worker_pb2.StartCall) -> Words:
            return [text_output(index, "x" * 4096) for index in range(start.num_resumed_tokens, 4000)]

        world.worker.script = endless
        host, _, port = world.gateway.http_address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=2**12)
        body = json.dumps(chat(stream=True)).encode()
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await world.worker.wait_for(lambda worker: worker.aborted == [1])
        writer.close()


async def test_a_model_whose_workers_left_is_waited_for(world: World) -> None:
    await world.worker.die()
    world.scheduler.holding = True
    asking = asyncio.create_task(world.post(CHAT, chat()))
    await world.scheduler.wait_for("submit")
    asking.cancel()


async def test_a_second_model_is_served_when_its_worker_comes(world: World) -> None:
    other = Member("worker", "w9", world.worker.address, {"model": "other", "engine": "fake"})
    async with world.registry.announce(other), asyncio.timeout(10):
        while (await world.post(CHAT, chat(model="other")))[0] != 200:
            pass  # until it was loaded
        status, answer, _ = await world.post(CHAT, chat(model=""))
    assert (status, answer["error"]["param"]) == (400, "model")


async def test_finish_of_length_and_usage_of_reasoning_are_passed_on(world: World) -> None:
    world.worker.script = lambda start: [
        text_output(0, "a"),
        worker_pb2.CallOutput(offset=1, finish=ending(start, 1, call_pb2.FINISH_REASON_LENGTH)),
    ]
    _, answer, _ = await world.post(CHAT, chat(max_tokens=1))
    assert answer["choices"][0]["finish_reason"] == "length"
