"""An agent of the OpenAI Agents SDK with two tools, asked each question of its command line in one conversation.

Chat mode is the one line that Legato needs until it serves /v1/responses; the SDK has no variable for it.
"""

import json
import sys

from agents import Agent, Runner, function_tool, set_default_openai_api

set_default_openai_api("chat_completions")
used = []


@function_tool
def find_item(name: str) -> str:
    """Find the number of an item by its name."""
    used.append("find_item")
    return f"{name} is item 7731"


@function_tool
def count_stock(item: str) -> str:
    """Count how many of an item are in stock."""
    used.append("count_stock")
    return f"41 of {item}"


agent = Agent(
    name="clerk",
    instructions="You answer questions about a shop.",
    model="gpt-4o-mini",
    tools=[find_item, count_stock],
)
answers = []
conversation = []
for question in sys.argv[1:]:
    result = Runner.run_sync(agent, [*conversation, {"role": "user", "content": question}])
    conversation = result.to_input_list()
    answers.append(result.final_output)
print(json.dumps({"tools_used": used, "answers": answers}))
