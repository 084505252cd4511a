"""Recorded agent sessions, cut down to what two small engines on a processor can serve in half a minute.

Half of the programs are sessions of weka_claude_code, half of agentcgroup_claude_code. Contexts are divided so that the
longest have 1,000 to 2,000 tokens and an engine's KV memory holds about five of them. Outputs and waits are divided so
that they stay beside a cold prefill what they are on a large model: a third of it and half of it, at the median.
Structure and sharing stay. Arrivals are faster than the engines, so a queue forms and lasts until the last have come.
"""

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

from sim import workload
from sim.trace import Program, Segment
from sim.waits import Caps

_CAPS = Caps(user_seconds=60, other_seconds=60)


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    calls: tuple[int, int]
    """Programs of so many calls are taken."""
    context: float
    """What contexts are divided by."""


_SOURCES = (
    _Source("weka_claude_code", (6, 20), 64),
    _Source("agentcgroup_claude_code", (8, 24), 32),
)
_LONGEST = 112_000
"""Tokens of the longest call, before division."""
_OUTPUT = 16
_GAPS = 64
MAX_TOKENS = 4096
"""No call is longer, prompt and output together, with what a chat template adds."""


def programs(traces: Path, count: int, programs_per_second: float, seed: int) -> list[Program]:
    """`count` programs with Poisson arrivals. Other seeds give other programs, and no two seeds any common content."""
    rng = random.Random(f"real/{seed}")
    chosen: list[Program] = []
    for source, part in zip(_SOURCES, (count - count // 2, count // 2), strict=True):
        found = workload.load(source.name, seed=seed, caps=_CAPS, max_tokens=_LONGEST, traces=traces)
        fitting = [program for program in found if source.calls[0] <= len(program.calls) <= source.calls[1]]
        cut = workload.scaled(rng.sample(fitting, part), context=source.context, output=_OUTPUT, gaps=_GAPS)
        chosen += [_renamed(program, seed) for program in cut]
    return workload.arrivals(chosen, programs_per_second, seed)


def _renamed(program: Program, seed: int) -> Program:
    """Content of its own: engines that have run another seed's programs know none of it. And the one model there is."""
    segments = tuple(Segment(f"{segment.hash}/{seed}", segment.tokens) for segment in program.segments)
    calls = tuple(dataclasses.replace(call, model="") for call in program.calls)
    return dataclasses.replace(program, program_id=f"{program.program_id}:{seed}", segments=segments, calls=calls)
