"""An AutoGen agent of two tools, asked each question of its command line; it remembers those before."""

import asyncio
import json
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

used = []


async def find_item(name: str) -> str:
    """Find the number of an item by its name."""
    used.append("find_item")
    return f"{name} is item 7731"


async def count_stock(item: str) -> str:
    """Count how many of an item are in stock."""
    used.append("count_stock")
    return f"41 of {item}"


async def main() -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini")
    agent = AssistantAgent(
        "clerk",
        model_client=client,
        tools=[find_item, count_stock],
        system_message="You answer questions about a shop.",
        max_tool_iterations=5,
    )
    answers = []
    for question in sys.argv[1:]:
        result = await agent.run(task=question)
        answers.append(result.messages[-1].content)
    await client.close()
    print(json.dumps({"tools_used": used, "answers": answers}))


asyncio.run(main())
