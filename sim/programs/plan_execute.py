"""Plan and execute: a planner hands steps to sub-agents, which loop with tools in parallel; a writer joins them.

Fitted to whowhen_magentic: calls per program 20 / 66 / 71 (p50 / p90 / max), 4 to 6 agents, prompts 4,155 / 9,568,
output 236 / 310, 76 % of prompt tokens sent before by the same program, 86 % of the first prompt by others; two in
five calls ask for a tool. Waits by tool as in agentcgroup_claude_code. The fan-out is that of dynamo_pi_subagents
(three sub-agents) and weka_claude_code (widest level 5 at p90).
"""

from sim.programs.draft import Draft
from sim.programs.laws import Lognormal, Scale, tool

SCALE = Scale(context=8, output=8, calls=2)

CALLS = Lognormal(20, 66, 8, 71)
NUM_STEPS = (2, 3, 3, 4, 5)
"""Sub-agents side by side, drawn evenly."""
SUB_AGENTS = ("WebSurfer", "FileSurfer", "Coder", "Assistant")
SYSTEM_TOKENS = 1_600
FIRST_SHARED_TOKENS = 300
TASK_TOKENS = Lognormal(45, 80, 20, 200)
OUTPUT_TOKENS = Lognormal(236, 310, 60, 870)
RESULT_TOKENS = Lognormal(130, 500, 16, 2_000)


def write(draft: Draft) -> None:
    """Fill a draft with one program."""
    rng, scale = draft.rng, draft.scale
    task = draft.own(TASK_TOKENS.draw(rng, scale.context))
    planner = draft.shared("planner", FIRST_SHARED_TOKENS / scale.context)
    facts, found = draft.call("Orchestrator:facts", (planner, task), _output(draft), phase="facts")
    planned, plan = draft.call(
        "Orchestrator:plan", (planner, task, found), _output(draft), parents=(facts,), phase="plan"
    )
    num_steps = rng.choice(NUM_STEPS)
    num_calls = max(CALLS.count(rng, scale.calls), num_steps + 3) - 3
    ends: list[tuple[int, int]] = []
    for step in range(num_steps):
        length = num_calls // num_steps + (step < num_calls % num_steps)
        ends.append(
            _sub_agent(draft, SUB_AGENTS[step % len(SUB_AGENTS)], (task, found, plan), planned, step + 1, length)
        )
    parents, results = zip(*ends, strict=True)
    prompt = (planner, task, found, plan, *results)
    draft.call("Orchestrator:final", prompt, _output(draft), parents=parents, phase="final", wait_kind="join")


def _sub_agent(
    draft: Draft, agent: str, brief: tuple[int, ...], planned: int, thread: int, length: int
) -> tuple[int, int]:
    """One step's chain of `length` calls; its last call and that call's output."""
    prompt = [draft.shared(agent, SYSTEM_TOKENS / draft.scale.context), *brief]
    call, output = planned, -1
    for turn in range(length):
        tools = [] if turn == length - 1 else [tool(draft.rng)]
        call, output = draft.call(
            agent,
            prompt,
            _output(draft),
            parents=(call,),
            thread=thread,
            tools=tools,
            phase=f"step{thread}",
            wait_kind="handoff" if turn else "spawn",
        )
        prompt = [*prompt, output]
        if tools:
            prompt.append(draft.own(RESULT_TOKENS.draw(draft.rng, draft.scale.context)))
    return call, output


def _output(draft: Draft) -> float:
    return OUTPUT_TOKENS.draw(draft.rng, draft.scale.output)
