"""The same task on the asynchronous client, streaming, with a named tool. Knows nothing of Legato."""

import asyncio
import json

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from sync_agent import TOOLS, run_tool


async def ask(client: AsyncOpenAI, model: str, messages: list[ChatCompletionMessageParam], tool: str) -> None:
    """One turn that must call `tool`; appends the call and its result."""
    call_id, name, arguments = "", "", ""
    stream = await client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": tool}},
        max_tokens=200,
        stream=True,
    )
    async for chunk in stream:
        for piece in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            assert piece.function
            call_id, name = call_id or piece.id or "", name or piece.function.name or ""
            arguments += piece.function.arguments or ""
    assert name == tool
    function = {"name": name, "arguments": arguments}
    messages.append(
        {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}  # pyright: ignore[reportArgumentType] (plain dict)
    )
    result = run_tool(name, json.loads(arguments)["city"])
    messages.append({"role": "tool", "tool_call_id": call_id, "content": result})


async def main() -> None:
    async with AsyncOpenAI() as client:
        model = (await client.models.list()).data[0].id
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": "You answer questions about cities and use your tools. " * 20},
            {"role": "user", "content": "Tell me about one city."},
        ]
        for tool in ("weather", "population"):
            await ask(client, model, messages, tool)
        text, finish_reason, cached = "", None, 0
        stream = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                finish_reason = chunk.choices[0].finish_reason or finish_reason
            if chunk.usage and chunk.usage.prompt_tokens_details:
                cached = chunk.usage.prompt_tokens_details.cached_tokens
    outcome = {"tools_used": ["weather", "population"], "finish_reason": finish_reason, "cached_tokens": cached}
    print(json.dumps(outcome))  # noqa: T201 (its output)


if __name__ == "__main__":
    asyncio.run(main())
