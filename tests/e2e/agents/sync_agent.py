"""A weather agent on the synchronous client. Knows nothing of Legato.

The model of the tests is random, so the tool calls are required rather than hoped for.
"""

import json

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

CITIES = {"type": "string", "enum": ["Oslo", "Lima", "Pune"]}
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": CITIES},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name, description in (("weather", "Weather of a city now"), ("population", "Number of people in a city"))
]


def run_tool(name: str, city: str) -> str:
    return {"weather": f"It rains in {city}.", "population": f"A million people live in {city}."}[name]


def main() -> None:
    client = OpenAI()
    model = client.models.list().data[0].id
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You answer questions about cities and use your tools. " * 20},
        {"role": "user", "content": "Tell me about one city."},
    ]
    used: list[str] = []
    for _ in range(2):
        reply = client.chat.completions.create(
            model=model,
            messages=messages,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=200,
        )
        message = reply.choices[0].message
        assert reply.choices[0].finish_reason == "tool_calls", reply
        messages.append(message.model_dump(exclude_none=True))  # pyright: ignore[reportArgumentType] (as the guide does)
        for call in message.tool_calls or []:
            assert call.type == "function"
            city = json.loads(call.function.arguments)["city"]
            used.append(call.function.name)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": run_tool(call.function.name, city)})
    final = client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=24
    )
    usage = final.usage
    assert usage
    assert usage.prompt_tokens_details
    outcome = {
        "tools_used": used,
        "finish_reason": final.choices[0].finish_reason,
        "cached_tokens": usage.prompt_tokens_details.cached_tokens,
    }
    print(json.dumps(outcome))  # noqa: T201 (its output)


if __name__ == "__main__":
    main()
