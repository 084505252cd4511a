"""A trace set as the pool sees it: calls in the order in which they were made, each with its chain of blocks.

A block is a number; equal numbers are equal content behind an equal prefix, so chains share what prompts shared. Only
whole blocks count. Calls are points in time (open loop: what a pool keeps does not move them). A call begins when its
parents have ended and its recorded wait is over; waits for people are capped. Where the source recorded no duration, it
is taken from the lengths at the speed of one A100; where it recorded no arrivals, programs arrive by a Poisson process
whose rate keeps `LIVE_PROGRAMS` of them alive on average.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from sim import waits
from sim.chains import NOTHING, Chain, Chains
from sim.trace import Call, Program
from sim.waits import Caps

LIVE_PROGRAMS = 32.0
_CAPS = Caps(user_seconds=60.0, other_seconds=inf)


@dataclass(slots=True, eq=False)
class Request:
    """One call."""

    at: float
    end: float
    program_id: str
    tenant: str
    agent: str
    thread: str
    blocks: Sequence[int]
    """Of prompt and output, as far as the output comes back in later prompts."""
    num_prompt: int
    """How many of them are the prompt's."""
    next_use: float = inf
    """When its thread makes its next call; infinite: this is its last."""


def requests(programs: Sequence[Program], block_tokens: int, *, seed: int = 1) -> list[Request]:
    """All calls of the programs, by time."""
    rng = random.Random(f"retention/{seed}")
    starts = [_starts(program, rng) for program in programs]
    lengths = [max(times.values()) for times in starts]
    rate = LIVE_PROGRAMS * len(lengths) / max(sum(lengths), 1.0)
    made: list[Request] = []
    drawn = 0.0
    for program, times in zip(programs, starts, strict=True):
        arrival = drawn if program.arrival_s is None else program.arrival_s + rng.uniform(0.0, 3.0)
        drawn += rng.expovariate(rate)
        mine = _requests(program, times, arrival, block_tokens)
        _foresee(mine)
        made += mine
    return sorted(made, key=lambda request: request.at)


def _foresee(mine: list[Request]) -> None:
    """Fill in the next uses of one program's calls."""
    next_uses: dict[str, float] = {}
    for request in sorted(mine, key=lambda request: request.at, reverse=True):
        request.next_use = next_uses.get(request.thread, inf)
        next_uses[request.thread] = request.at


def _requests(program: Program, times: Mapping[int, float], arrival: float, block_tokens: int) -> list[Request]:
    """Of one program, by call."""
    chains = Chains(program.segments, block_tokens)
    texts: dict[str, Chain] = {}
    made: list[Request] = []
    for call in program.calls:
        thread = f"{call.thread}/{call.agent}"  # the agents of one thread take turns, each with a prompt of its own
        prompt = chains.chain(call.prompt, texts.get(thread, NOTHING))
        text = texts[thread] = chains.chain((*call.prompt, *call.output), prompt)
        at = arrival + times[call.id]
        user = (program.program_id, program.tenant or "", call.agent, thread)
        made.append(Request(at, at + _duration(program, call), *user, text.blocks, len(prompt.blocks)))
    return made


def _starts(program: Program, rng: random.Random) -> dict[int, float]:
    """When each call begins, from the program's arrival."""
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    for call in program.calls:
        parents_end = max((ends[parent] for parent in call.parents), default=0.0)
        start = parents_end + waits.seconds(call, _CAPS, rng)
        if call.gap_s is not None:
            start = max((starts[parent] for parent in call.parents), default=0.0) + call.gap_s
        starts[call.id] = start
        ends[call.id] = start + _duration(program, call)
    return starts


def _duration(program: Program, call: Call) -> float:
    if call.measured.llm_s is not None:
        return call.measured.llm_s
    return 0.3 + program.prompt_tokens(call) * 1e-5 + call.output_tokens * 0.02
