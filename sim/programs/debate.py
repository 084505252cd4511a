"""A debate: named agents speak in turn over one transcript, each behind its own instructions; a judge closes it.

An agent that ran code speaks again, with the result before it.

Fitted to whowhen_groupchat: calls per program 5 / 7 / 9 (p50 / p90 / max), 2 to 3 agents, prompts 1,781 / 4,127 tokens,
output 190 / 596, first prompt 927 / 1,319 of which 27 % are shared, 44 % of prompt tokens sent before by the same
program, and handoffs without a wait except where a speaker runs code.
"""

from sim.programs.draft import Draft
from sim.programs.laws import Lognormal, Scale, tool

SCALE = Scale(context=4, output=4)

CALLS = Lognormal(5.4, 7.4, 4, 9)
NUM_AGENTS = (2, 2, 3)
"""Drawn evenly."""
SPEAKERS = ("Verification_Expert", "DataAnalysis_Expert", "WebServing_Expert", "Validation_Expert", "Statistics_Expert")
SYSTEM_TOKENS = 250
QUESTION_TOKENS = Lognormal(670, 1_060, 200, 2_400)
OUTPUT_TOKENS = Lognormal(190, 596, 24, 1_600)
RESULT_TOKENS = Lognormal(120, 400, 16, 1_500)
RUNS_CODE = 0.35
"""194 of 559 calls asked for a tool."""


def write(draft: Draft) -> None:
    """Fill a draft with one program."""
    rng, scale = draft.rng, draft.scale
    agents = rng.sample(SPEAKERS, rng.choice(NUM_AGENTS))
    instructions = {agent: draft.shared(agent, SYSTEM_TOKENS / scale.context) for agent in (*agents, "Judge")}
    transcript = [draft.own(QUESTION_TOKENS.draw(rng, scale.context))]
    parents: tuple[int, ...] = ()
    num_calls = CALLS.count(rng, scale.calls, least=3)
    speaker = 0
    for turn in range(num_calls):
        last = turn == num_calls - 1
        agent = "Judge" if last else agents[speaker % len(agents)]
        tools = [tool(rng)] if not last and rng.random() < RUNS_CODE else []
        output_tokens = OUTPUT_TOKENS.draw(rng, scale.output)
        prompt = (instructions[agent], *transcript)
        phase = "verdict" if last else f"round{speaker // len(agents)}"
        call, output = draft.call(agent, prompt, output_tokens, parents=parents, tools=tools, phase=phase)
        transcript.append(output)
        if tools:
            transcript.append(draft.own(RESULT_TOKENS.draw(rng, scale.context)))
        else:
            speaker += 1
        parents = (call,)
