"""The `openai` package against the gateway."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from legato.v1 import call_pb2, worker_pb2
from tests.gateway.conftest import World
from tests.gateway.fakes import Words, counting, ending, text_output

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def client(world: World) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=world.base_url, api_key="none", max_retries=0, timeout=20)


async def test_a_chat_is_answered(world: World) -> None:
    async with client(world) as openai:
        answer = await openai.chat.completions.create(model="tiny", messages=HELLO)
    assert answer.choices[0].message.content == " 0 1 2 3 4"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == min(32, answer.usage.prompt_tokens)
    assert world.worker.starts[0].stream_interval > 1
    assert world.worker.starts[0].priority == 3


async def test_a_stream_brings_role_deltas_finish_and_usage(world: World) -> None:
    async with client(world) as openai:
        stream = await openai.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == " 0 1 2 3 4"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    extra = chunks[-1].model_extra or {}
    assert extra["worker_id"] == "worker-0"
    assert extra["timings"]["decode_seconds"] == 1.0
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_synchronous_client_streams_too(world: World) -> None:
    def read() -> str:
        with OpenAI(base_url=world.base_url, api_key="none", max_retries=0) as openai:
            stream = openai.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(read) == " 0 1 2 3 4"


def calls_a_tool(start: worker_pb2.StartCall) -> Words:
    first = call_pb2.ToolCall(index=0, id="call_1", name="add", arguments='{"a"')
    more = call_pb2.ToolCall(index=0, arguments=": 1}")
    return [
        text_output(0, "", tool_calls=[first]),
        text_output(1, "", tool_calls=[more]),
        worker_pb2.CallOutput(offset=2, finish=ending(start, 2, call_pb2.FINISH_REASON_TOOL_CALLS)),
    ]


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_calls_arrive_whole(world: World, streamed: bool) -> None:
    world.worker.script = calls_a_tool
    async with client(world) as openai:
        if streamed:
            async with openai.chat.completions.stream(model="tiny", messages=HELLO, tools=TOOLS) as stream:
                answer: Any = await stream.get_final_completion()
        else:
            answer = await openai.chat.completions.create(model="tiny", messages=HELLO, tools=TOOLS)
    [call] = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name) == ("call_1", "add")
    assert json.loads(call.function.arguments) == {"a": 1}
    assert answer.choices[0].finish_reason == "tool_calls"
    assert world.worker.starts[0].tools[0].name == "add"


async def test_a_tools_answer_is_rendered(world: World) -> None:
    messages: list[Any] = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "two"}]},
    ]
    async with client(world) as openai:
        await openai.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, tool_choice="required")
    assert world.worker.starts[0].tool_choice.mode == call_pb2.ToolChoice.MODE_REQUIRED


async def test_several_choices_come_from_several_calls(world: World) -> None:
    async with client(world) as openai:
        answer = await openai.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=7)
        stream = await openai.chat.completions.create(model="tiny", messages=HELLO, n=2, stream=True)
        texts = {0: "", 1: ""}
        async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in answer.choices] == [" 0 1 2 3 4"] * 3
    assert {start.sampling.seed for start in world.worker.starts[:3]} == {7, 8, 9}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15
    assert answer.usage.prompt_tokens == len(world.worker.starts[0].prompt_token_ids)
    assert texts == {0: " 0 1 2 3 4", 1: " 0 1 2 3 4"}


def with_logprobs(start: worker_pb2.StartCall) -> Words:
    top = [call_pb2.TokenLogprob(token_id=5, token="x", logprob=-0.5)]
    row = call_pb2.TokenLogprob(token_id=5, token="x", logprob=float("-inf"), top=top)
    return [
        text_output(0, "x", logprobs=[row]),
        worker_pb2.CallOutput(offset=1, finish=ending(start, 1, call_pb2.FINISH_REASON_LENGTH)),
    ]


async def test_logprobs_of_a_chat(world: World) -> None:
    world.worker.script = with_logprobs
    async with client(world) as openai:
        answer = await openai.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].token == "x"
    assert logprobs.content[0].logprob == -9999.0
    assert logprobs.content[0].top_logprobs[0].logprob == -0.5
    assert answer.choices[0].finish_reason == "length"


async def test_completions_take_text_and_tokens(world: World) -> None:
    async with client(world) as openai:
        text = await openai.completions.create(model="tiny", prompt="once upon")
        tokens = await openai.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=9)
        several = await openai.completions.create(model="tiny", prompt=["a", "b"], n=2)
        stream = await openai.completions.create(model="tiny", prompt="x", stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert text.choices[0].text == streamed == " 0 1 2 3 4"
    assert list(world.worker.starts[1].prompt_token_ids) == [5, 6, 7]
    assert world.worker.starts[1].sampling.max_tokens == 9
    assert world.worker.starts[0].sampling.max_tokens == 16
    assert tokens.usage is not None
    assert tokens.usage.prompt_tokens == 3
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


async def test_logprobs_of_a_completion(world: World) -> None:
    world.worker.script = with_logprobs
    async with client(world) as openai:
        answer = await openai.completions.create(model="tiny", prompt="a", logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["x"]
    assert logprobs.text_offset == [0]
    assert logprobs.top_logprobs == [{"x": -0.5}]


async def test_reasoning_comes_apart(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        finish = ending(start, 2)
        finish.usage.reasoning_tokens = 1
        return [
            worker_pb2.CallOutput(offset=0, token_ids=[1], reasoning="hm"),
            text_output(1, "yes"),
            worker_pb2.CallOutput(offset=2, finish=finish),
        ]

    world.worker.script = script
    async with client(world) as openai:
        answer = await openai.chat.completions.create(model="tiny", messages=HELLO)
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"] == "hm"
    assert answer.choices[0].message.content == "yes"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1


async def test_models_are_listed(world: World) -> None:
    async with client(world) as openai:
        models = [model.id async for model in openai.models.list()]
        assert models == ["tiny"]
        assert (await openai.models.retrieve("tiny")).owned_by == "legato"
        with pytest.raises(NotFoundError):
            await openai.models.retrieve("other")


async def test_errors_are_the_packages_own(world: World) -> None:
    async with client(world) as openai:
        with pytest.raises(NotFoundError) as unknown:
            await openai.chat.completions.create(model="nope", messages=HELLO)
        with pytest.raises(BadRequestError) as long:
            await openai.completions.create(model="tiny", prompt=[5] * 3000)
    assert unknown.value.code == "model_not_found"
    assert long.value.code == "context_length_exceeded"
    assert "2048" in long.value.message
    assert "3000" in long.value.message


async def test_structured_output_reaches_the_engine(world: World) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "string"}}}
    async with client(world) as openai:
        await openai.chat.completions.create(
            model="tiny",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
        await openai.chat.completions.create(
            model="tiny", messages=HELLO, extra_body={"structured_outputs": {"choice": ["a", "b"]}, "priority": 5}
        )
        await openai.chat.completions.create(model="tiny", messages=HELLO, extra_body={"guided_regex": "[ab]"})
    first, second, third = world.worker.starts
    assert json.loads(first.constraint.json_schema) == schema
    assert list(second.constraint.choice.choices) == ["a", "b"]
    assert third.constraint.regex == "[ab]"
    assert [submit.priority for submit in world.scheduler.said("submit")] == [0, -5, 0]


async def test_output_of_many_tokens_is_whole(world: World) -> None:
    world.worker.script = counting(500)
    async with client(world) as openai:
        stream = await openai.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "".join(f" {index}" for index in range(500))
