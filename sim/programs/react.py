"""A ReAct loop: one agent, a long shared system prompt with tools, one tool result a turn until it is done.

Fitted to agentcgroup_claude_code: calls per program 38 / 85 / 134 (p50 / p90 / max), first prompt 13,813 / 20,020
tokens of which 94 % are shared with other programs, output 116 / 583, context growth beyond the output 169 / 1,277
tokens a turn, tools and their latencies by name, 12 % of turns with several tools at once.
"""

from sim.programs.draft import Draft
from sim.programs.laws import Lognormal, Scale, tool

SCALE = Scale(context=32, output=8, calls=3)

CALLS = Lognormal(38, 85, 4, 134)
SYSTEM_TOKENS = 12_992
"""Tools and system prompt, equal in most sessions."""
TASK_TOKENS = Lognormal(821, 3_000, 100, 6_000)
OUTPUT_TOKENS = Lognormal(116, 583, 16, 1_600)
RESULT_TOKENS = Lognormal(169, 1_277, 16, 8_289)
SEVERAL_TOOLS = 0.12


def write(draft: Draft) -> None:
    """Fill a draft with one program."""
    rng, scale = draft.rng, draft.scale
    prompt = [
        draft.shared("system", SYSTEM_TOKENS / scale.context),
        draft.own(TASK_TOKENS.draw(rng, scale.context)),
    ]
    num_calls = CALLS.count(rng, scale.calls, least=2)
    parents: tuple[int, ...] = ()
    for turn in range(num_calls):
        last = turn == num_calls - 1
        tools = [] if last else [tool(rng) for _ in range(2 if rng.random() < SEVERAL_TOOLS else 1)]
        output_tokens = OUTPUT_TOKENS.draw(rng, scale.output)
        call, output = draft.call("main", prompt, output_tokens, parents=parents, tools=tools)
        prompt = [*prompt, output, draft.own(RESULT_TOKENS.draw(rng, scale.context))]
        parents = (call,)
