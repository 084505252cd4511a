"""A trace set as the pool sees it: calls in the order in which they were made, each with its chain of blocks.

A block is a number; equal numbers are equal content behind an equal prefix, so chains share what prompts shared. Only
whole blocks count. Calls are points in time (open loop: what a pool keeps does not move them). A call begins when its
parents have ended and its recorded wait is over; waits for people are capped. Where the source recorded no duration, it
is taken from the lengths at the speed of one A100; where it recorded no arrivals, programs arrive by a Poisson process
whose rate keeps `LIVE_PROGRAMS` of them alive on average.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from bench.programs.laws import TOOL_SECONDS, tool
from sim.trace import Call, Program

LIVE_PROGRAMS = 32.0
DEFAULT_WAIT_SECONDS = {"user": 20.0, "env": 1.0}
"""For a wait that the source knows of, but not how long it was; tools draw from bench/programs/laws.py."""


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


class Chains:
    """Numbers for blocks: a block is what lies in it and the block before it."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._numbers: dict[tuple[object, ...], int] = {}

    def chain(self, pieces: Iterable[tuple[str, int]]) -> list[int]:
        """The whole blocks of a text given as (hash, tokens)."""
        blocks: list[int] = []
        key: list[object] = [-1]
        room = self._block_tokens
        for name, tokens in pieces:
            start = 0
            while tokens - start >= room:
                key += (name, start, room)
                start += room
                number = self._numbers.setdefault(tuple(key), len(self._numbers))
                blocks.append(number)
                key = [number]
                room = self._block_tokens
            if start < tokens:
                key += (name, start, tokens - start)
                room -= tokens - start
        return blocks


def requests(
    programs: Sequence[Program], block_tokens: int, *, cap_wait_seconds: float = 60.0, seed: int = 1
) -> list[Request]:
    """All calls of the programs, by time."""
    rng = random.Random(f"retention/{seed}")
    starts = [_starts(program, cap_wait_seconds, rng) for program in programs]
    lengths = [max(times.values()) for times in starts]
    rate = LIVE_PROGRAMS * len(lengths) / max(sum(lengths), 1.0)
    chains = Chains(block_tokens)
    made: list[Request] = []
    drawn = 0.0
    for program, times in zip(programs, starts, strict=True):
        arrival = drawn if program.arrival_s is None else program.arrival_s + rng.uniform(0.0, 3.0)
        drawn += rng.expovariate(rate)
        mine = [_request(program, call, arrival + times[call.id], chains) for call in program.calls]
        _foresee(mine)
        made += mine
    return sorted(made, key=lambda request: request.at)


def _foresee(mine: list[Request]) -> None:
    """Fill in the next uses of one program's calls."""
    next_uses: dict[str, float] = {}
    for request in sorted(mine, key=lambda request: request.at, reverse=True):
        request.next_use = next_uses.get(request.thread, inf)
        next_uses[request.thread] = request.at


def _request(program: Program, call: Call, at: float, chains: Chains) -> Request:
    def pieces(indices: Iterable[int]) -> list[tuple[str, int]]:
        return [(program.segments[index].hash, program.segments[index].tokens) for index in indices]

    prompt = pieces(call.prompt)
    blocks = chains.chain(prompt + pieces(call.output))
    num_prompt = len(chains.chain(prompt)) if call.output else len(blocks)
    thread = f"{call.thread}/{call.agent}"  # the agents of one thread take turns, each with a prompt of its own
    end = at + _duration(program, call)
    return Request(at, end, program.program_id, program.tenant or "", call.agent, thread, blocks, num_prompt)


def _starts(program: Program, cap_wait_seconds: float, rng: random.Random) -> dict[int, float]:
    """When each call begins, from the program's arrival."""
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    for call in program.calls:
        parents_end = max((ends[parent] for parent in call.parents), default=0.0)
        start = parents_end + _wait(call, cap_wait_seconds, rng)
        if call.gap_s is not None:
            start = max((starts[parent] for parent in call.parents), default=0.0) + call.gap_s
        starts[call.id] = start
        ends[call.id] = start + _duration(program, call)
    return starts


def _wait(call: Call, cap_wait_seconds: float, rng: random.Random) -> float:
    if call.wait_s is None:
        if call.wait_kind == "tool":
            return TOOL_SECONDS[tool(rng)].draw(rng)
        mean = DEFAULT_WAIT_SECONDS.get(call.wait_kind or "", 0.0)
        return min(rng.expovariate(1 / mean), cap_wait_seconds) if mean else 0.0
    return min(call.wait_s, cap_wait_seconds) if call.wait_kind == "user" else call.wait_s


def _duration(program: Program, call: Call) -> float:
    if call.measured.llm_s is not None:
        return call.measured.llm_s
    return 0.3 + program.prompt_tokens(call) * 1e-5 + call.output_tokens * 0.02
