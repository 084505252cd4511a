"""Programs that say nothing of themselves are known by what their calls say."""

from array import array
from typing import Any

import pytest

from legato.v1 import call_pb2, worker_pb2
from services.gateway.identity import NOTHING_SAID, Resolver, from_headers
from services.gateway.request import Contents
from tests.gateway.asking import asked, chat
from tests.gateway.conftest import World
from tests.gateway.fakes import Words, ending, text_output


def says(*texts: str, reasoning: str = "") -> Any:
    """A worker that answers each call with the next text."""
    left = list(texts)

    def script(start: worker_pb2.StartCall) -> Words:
        return [
            text_output(0, "", reasoning=reasoning),
            text_output(1, left.pop(0)),
            worker_pb2.CallOutput(offset=2, finish=ending(start, 2)),
        ]

    return script


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_that_goes_on_is_recognised_by_what_it_says(world: World, streamed: bool) -> None:
    world.worker.script = says(" the plan\n", "more", "other", reasoning="let me think")
    first, _, by = await asked(world, body=chat("task", stream=streamed))
    assert by == "anonymous"
    second, identity, by = await asked(world, body=chat("task", "the plan", "go on", stream=streamed))
    assert (second, identity.thread, by) == (first, "", "content-chain;confidence=high")
    fork, identity, _ = await asked(world, body=chat("task", "the plan", "go elsewhere", stream=streamed))
    assert fork == first
    assert identity.thread


async def test_tool_calls_are_part_of_what_is_said(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        begin = call_pb2.ToolCall(index=0, id="call_1", name="add", arguments='{"b": 2,')
        rest = call_pb2.ToolCall(index=0, arguments='"a":1}')
        return [
            text_output(0, "", tool_calls=[begin]),
            text_output(1, "", tool_calls=[rest]),
            worker_pb2.CallOutput(offset=2, finish=ending(start, 2, call_pb2.FINISH_REASON_TOOL_CALLS)),
        ]

    world.worker.script = script
    first, _, _ = await asked(world, body=chat("task"))
    called = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    messages = [
        {"role": "user", "content": "task"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
    ]
    second, _, _ = await asked(world, body={"model": "tiny", "messages": messages})
    assert second == first


async def test_each_of_several_answers_can_be_gone_on_from(world: World) -> None:
    world.worker.script = says("one", "two", "three", "four")
    first, _, _ = await asked(world, body=chat("task", n=2))
    for answer in ("one", "two"):
        assert (await asked(world, body=chat("task", answer, "go on")))[0] == first


async def completed(world: World, prompt: str | list[str], output: str) -> str:
    """The program of a completion that gave this."""
    world.worker.script = lambda start: says(output)(start)
    status, _, headers = await world.post("/v1/completions", {"model": "tiny", "prompt": prompt})
    assert status == 200
    return headers["x-legato-program-id"]


@pytest.mark.parametrize("output", [" search[x]", " search[x]\nObs", " I think\nso", "\nsearch"])
async def test_a_text_that_goes_on_is_recognised(world: World, output: str) -> None:
    shared = "Examples.\n\nQuestion: "
    first = await completed(world, f"{shared}one\nThought:", output)
    assert await completed(world, f"{shared}two\nThought:", output) != first
    assert await completed(world, f"{shared}one\nThought:{output}\nObservation: y\nThought:", "end") == first
    assert await completed(world, f"{shared}one\nThought:{output}\nObservation: y\nThought:end\nThought:", "") == first


async def test_texts_that_only_begin_alike_are_strangers(world: World) -> None:
    first = await completed(world, "Question: one\nThought:", "\n")
    assert await completed(world, "Question: one\nThought:\nmore", "x") != first
    assert await completed(world, "Question: one\nThought:", "") != first


def test_nobody_without_the_key_can_name_the_session_of_a_tenant() -> None:
    said = {"x-session-id": "s", "x-legato-tenant": "t"}

    def program(key: bytes) -> str:
        resolved = Resolver(key).resolve(from_headers(said, "x-legato-tenant"), said, NOTHING_SAID, ())
        return resolved.identity.program_id

    assert program(b"one") == program(b"one") != program(b"other")


def test_of_a_request_only_so_much_is_looked_at() -> None:
    nothing = Contents(array("Q"), array("I"), "")
    short, long = "one\ntwo", "\n" * 8192
    assert [len(path.ends) for path in Resolver(b"").paths((text, nothing) for text in (long, short))] == [0, 2]
    lines = "\n" * 8190
    assert [len(path.ends) for path in Resolver(b"").paths((text, nothing) for text in (lines, short))] == [8191, 0]


async def test_one_line_may_go_on_where_an_output_has_several(world: World) -> None:
    first = await completed(world, "Once", " upon a time\nthere was")
    assert await completed(world, "Once upon a time\nthere was a king", "x") == first


async def test_a_call_that_names_its_program_is_recognised_when_it_no_longer_does(world: World) -> None:
    world.worker.script = says("the plan", "more")
    await asked(world, {"x-legato-program-id": "p"}, chat("task"))
    told, _, by = await asked(world, body=chat("task", "the plan", "go on"))
    assert (told, by) == ("p", "content-chain;confidence=high")
