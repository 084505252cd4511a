"""Map-reduce: a splitter, a fan-out of mappers that share their instructions, a join; then the same once more.

Fitted to tot_gpt4, whose rounds are fan-outs with joins: calls per program 31 / 145 (p50 / p90), widest level 6 / 156
(p50 / max), output 50 / 181 tokens, prompts 363 / 368 / 2,237 (p50 / p90 / p99), first prompt 64 % shared with other
programs, no waits at joins. Calls are halved by halving the rounds (tot_gpt4 mostly makes four). The join reads all
branches, where tot_gpt4's voters repeat one prompt, so less of its prompts was sent before.
"""

from sim.programs.draft import Draft
from sim.programs.laws import Lognormal, Scale

SCALE = Scale(context=2, output=2, calls=2)

WIDTH = Lognormal(6, 36, 3, 156)
ROUNDS = 4
SYSTEM_TOKENS = 300
SPLIT_TOKENS = Lognormal(171, 300, 60, 600)
PART_TOKENS = Lognormal(63, 120, 14, 400)
OUTPUT_TOKENS = Lognormal(50, 181, 16, 360)


def write(draft: Draft) -> None:
    """Fill a draft with one program."""
    rng, scale = draft.rng, draft.scale
    splitter = draft.shared("splitter", SYSTEM_TOKENS / scale.context)
    mapper = draft.shared("mapper", SYSTEM_TOKENS / scale.context)
    reducer = draft.shared("reducer", SYSTEM_TOKENS / scale.context)
    document = draft.own(SPLIT_TOKENS.draw(rng, scale.context))
    parents: tuple[int, ...] = ()
    carried: tuple[int, ...] = ()
    num_threads = 0
    width = WIDTH.count(rng)
    for round_number in range(max(1, round(ROUNDS / scale.calls))):
        phase = f"round{round_number}"
        output_tokens = OUTPUT_TOKENS.draw(rng, scale.output)
        split, plan = draft.call(
            "splitter", (splitter, document, *carried), output_tokens, parents=parents, phase=phase
        )
        branches: list[tuple[int, int]] = []
        for _ in range(width):
            num_threads += 1
            prompt = (mapper, document, draft.own(PART_TOKENS.draw(rng, scale.context)))
            output_tokens = OUTPUT_TOKENS.draw(rng, scale.output)
            branch = draft.call(
                "mapper", prompt, output_tokens, parents=(split,), thread=num_threads, phase=phase, wait_kind="spawn"
            )
            branches.append(branch)
        ends, outputs = zip(*branches, strict=True)
        output_tokens = OUTPUT_TOKENS.draw(rng, scale.output)
        prompt = (reducer, document, *outputs)
        joined, result = draft.call("reducer", prompt, output_tokens, parents=ends, phase=phase, wait_kind="join")
        parents, carried = (joined,), (plan, result)
