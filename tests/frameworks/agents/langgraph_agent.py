"""A LangGraph agent of two tools, asked each question of its command line on one thread."""

import json
import sys

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@tool
def find_item(name: str) -> str:
    """Find the number of an item by its name."""
    return f"{name} is item 7731"


@tool
def count_stock(item: str) -> str:
    """Count how many of an item are in stock."""
    return f"41 of {item}"


TOOLS = [find_item, count_stock]
model = ChatOpenAI(model="gpt-4o-mini").bind_tools(TOOLS)


def ask(state: MessagesState) -> dict:
    return {"messages": [model.invoke([SystemMessage("You answer questions about a shop."), *state["messages"]])]}


graph = StateGraph(MessagesState)
graph.add_node("ask", ask)
graph.add_node("tools", ToolNode(TOOLS))
graph.add_edge(START, "ask")
graph.add_conditional_edges("ask", tools_condition)
graph.add_edge("tools", "ask")
agent = graph.compile(checkpointer=InMemorySaver())

answers = []
for question in sys.argv[1:]:
    state = agent.invoke({"messages": [HumanMessage(question)]}, {"configurable": {"thread_id": "1"}})
    answers.append(state["messages"][-1].content)
used = [message.name for message in state["messages"] if isinstance(message, ToolMessage)]
print(json.dumps({"tools_used": used, "answers": answers}))
