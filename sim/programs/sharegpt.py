"""A conversation as Autellix (arXiv 2502.13965) replays ShareGPT: calls one after the other, answered at once.

Fitted to the means that it gives: 6.66 calls a program, 256 tokens of prompt and 277 of output for each. They are taken
for whole prompts: what is said before is not sent again, so calls are short, slots are scarce before KV is, and order
is what matters. The spreads are near those of the public data set; there are no think times.
"""

from sim.programs.draft import Draft
from sim.programs.laws import Lognormal, Scale

SCALE = Scale(context=1, output=1, calls=1)

CALLS = Lognormal(3.9, 14.7, 1, 60)
PROMPT_TOKENS = Lognormal(70, 610, 4, 4_000)
OUTPUT_TOKENS = Lognormal(178, 620, 8, 1_500)


def write(draft: Draft) -> None:
    """Fill a draft with one program."""
    rng, scale = draft.rng, draft.scale
    parents: tuple[int, ...] = ()
    for _ in range(CALLS.count(rng, scale.calls, least=1)):
        prompt = [draft.own(PROMPT_TOKENS.draw(rng, scale.context))]
        call, _ = draft.call("chat", prompt, OUTPUT_TOKENS.draw(rng, scale.output), parents=parents)
        parents = (call,)
