"""Coding agents by their published laws: contexts that grow turn by turn, with gaps of a chosen spread between turns.

Laws of Codex on SWE-bench Pro (610 traces, public `Inferact/codex_swebenchpro_traces`; algorithms.md 4.5): a median of
33 turns, contexts from 12,000 tokens on, 2,242 more each turn, 131 times as much input as output. Every program's
content is its own.
"""

import random
from dataclasses import dataclass
from math import exp

from sim.trace import Call, Program, Segment

_TURNS_SIGMA = 0.4
_OUTPUT = 350


@dataclass(frozen=True, slots=True)
class Contexts:
    """How they grow."""

    turns: float = 33.0
    """Median."""
    first_tokens: int = 12_000
    growth_tokens: int = 2_242
    """Of a turn, its output of about 350 among them."""


FULL = Contexts()
SHORT = Contexts(turns=11.0, growth_tokens=3 * 2_242)
"""A third of the turns, to contexts of the same end."""


def coding(
    count: int,
    seed: int,
    *,
    gap_seconds: float,
    gap_sigma: float,
    contexts: Contexts = FULL,
    workload: str = "coding",
) -> list[Program]:
    """Programs without arrivals; gaps are log-normal with that median."""
    rngs = [random.Random(f"{workload}/{seed}/{index}") for index in range(count)]
    return [
        _program(f"{workload}-{seed}-{index}", rng, gap_seconds, gap_sigma, contexts) for index, rng in enumerate(rngs)
    ]


def _program(name: str, rng: random.Random, gap_seconds: float, gap_sigma: float, contexts: Contexts) -> Program:
    turns = max(2, round(contexts.turns * exp(rng.gauss(0.0, _TURNS_SIGMA))))
    segments = [Segment(f"{name}/0", contexts.first_tokens)]
    calls: list[Call] = []
    for turn in range(turns):
        output = max(8, round(_OUTPUT * exp(rng.gauss(-0.32, 0.8))))
        wait = gap_seconds * exp(rng.gauss(0.0, gap_sigma)) if turn else 0.0
        said, seen = len(segments), len(segments) + 1
        segments.append(Segment(f"{name}/{turn}/out", output + 4))
        segments.append(
            Segment(f"{name}/{turn}/in", max(16, round(rng.expovariate(1 / (contexts.growth_tokens - _OUTPUT)))))
        )
        before = (turn - 1,) if turn else ()
        calls.append(Call(turn, "coder", 0, before, tuple(range(said)), output, (said,), wait_s=wait, wait_kind="tool"))
        assert seen == len(segments) - 1
    return Program(name, name.split("-", 1)[0], tuple(segments), tuple(calls))
