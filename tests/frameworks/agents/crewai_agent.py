"""A CrewAI agent of two tools, with a task for each question of its command line; a task sees the one before."""

import json
import sys

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

used = []


@tool("find_item")
def find_item(name: str) -> str:
    """Find the number of an item by its name."""
    used.append("find_item")
    return f"{name} is item 7731"


@tool("count_stock")
def count_stock(item: str) -> str:
    """Count how many of an item are in stock."""
    used.append("count_stock")
    return f"41 of {item}"


clerk = Agent(
    role="clerk",
    goal="answer questions about a shop",
    backstory="You know its lists.",
    llm=LLM(model="gpt-4o-mini"),
    tools=[find_item, count_stock],
    allow_delegation=False,
)
tasks = []
for question in sys.argv[1:]:
    tasks.append(Task(description=question, expected_output="a number", agent=clerk, context=tasks[-1:]))
result = Crew(agents=[clerk], tasks=tasks, verbose=False).kickoff()
print(json.dumps({"tools_used": used, "answers": [output.raw for output in result.tasks_output]}))
