"""Programs to simulate: real traces and generated ones, cut to size, with arrivals.

Everything is a function of its arguments: the same seed gives the same programs at the same times.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sim import programs as shapes
from sim import trace, waits
from sim.programs.laws import Scale
from sim.trace import Call, Program, Segment
from sim.waits import Caps

TRACES = Path(__file__).resolve().parent.parent.parent / "shared" / "traces"
"""Where trace sets lie that are asked for by name."""
_GRID_SECONDS = 3.0
"""The Mooncake traces tell arrivals on such a grid."""
CAPS = Caps()
_REAL = Scale(context=1, output=1, calls=1, gaps=1)


def load(
    name: str | Path,
    limit: int = 0,
    seed: int = 1,
    *,
    caps: Caps = CAPS,
    max_tokens: int = 0,
    traces: Path = TRACES,
) -> list[Program]:
    """Programs of a trace file, or of the set of that name, every wait a number.

    `limit`: so many, sampled; the head of a trace with arrivals. More than there are: repeated, with content of their
    own where only one program has it. `max_tokens`: only programs of whose calls none is longer; 0: all.
    """
    path = Path(name)
    path = path if path.exists() else traces / f"{name}.jsonl.gz"
    found = [program for program in trace.read(path) if not max_tokens or longest(program) <= max_tokens]
    if not found:
        raise ValueError(f"{path}: no program with at most {max_tokens} tokens a call")
    rng = random.Random(f"workload/{seed}")
    chosen = found
    if 0 < limit < len(found):
        recorded = all(program.arrival_s is not None for program in found)
        chosen = found[:limit] if recorded else rng.sample(found, limit)
    elif limit > len(found):
        chosen = _repeated(found, limit, rng)
    return [_filled(program, caps, rng) for program in chosen]


def generated(shape: str, count: int, seed: int = 1, scale: Scale = _REAL) -> list[Program]:
    """Programs of one of the generators' shapes, or "mix" for all of them, as large as their sources' unless scaled."""
    if shape == "mix":
        return shapes.mix(count, seed, 1.0, scales=dict.fromkeys(shapes.SHAPES, scale))
    return shapes.generate(shape, count, seed, scale)


def longest(program: Program) -> int:
    """Tokens of its longest call, prompt and output."""
    return max(program.prompt_tokens(call) + call.output_tokens for call in program.calls)


def arrivals(programs: Sequence[Program], programs_per_second: float, seed: int = 1) -> list[Program]:
    """Poisson arrivals from 0 s on, the programs in random order (open loop)."""
    rng = random.Random(f"arrivals/{seed}")
    shuffled = rng.sample(programs, len(programs))
    now, arrived = 0.0, list[Program]()
    for program in shuffled:
        now += rng.expovariate(programs_per_second)
        arrived.append(dataclasses.replace(program, arrival_s=now))
    return arrived


def recorded(programs: Iterable[Program], speed: float = 1.0, seed: int = 1) -> list[Program]:
    """As they arrived where they were recorded, spread within the source's grid, `speed` times as fast."""
    rng = random.Random(f"recorded/{seed}")
    arrived = [
        dataclasses.replace(program, arrival_s=((program.arrival_s or 0.0) + rng.uniform(0, _GRID_SECONDS)) / speed)
        for program in programs
    ]
    return sorted(arrived, key=lambda program: program.arrival_s or 0.0)


def at_once(programs: Sequence[Program], seed: int = 1) -> list[Program]:
    """All there from the beginning, in random order: for closed loops."""
    shuffled = random.Random(f"at_once/{seed}").sample(programs, len(programs))
    return [dataclasses.replace(program, arrival_s=0.0) for program in shuffled]


def scaled(
    programs: Iterable[Program], *, context: float = 1.0, output: float = 1.0, gaps: float = 1.0
) -> list[Program]:
    """All lengths of prompts, of outputs, and all waits divided; structure and sharing stay."""
    return [_scaled(program, context, output, gaps) for program in programs]


def _filled(program: Program, caps: Caps, rng: random.Random) -> Program:
    calls = tuple(waits.filled(call, caps, rng) for call in program.calls)
    return dataclasses.replace(program, calls=calls)


def _scaled(program: Program, context: float, output: float, gaps: float) -> Program:
    outputs = {index for call in program.calls for index in call.output}
    segments = tuple(
        Segment(segment.hash, max(1, round(segment.tokens / (output if index in outputs else context))))
        for index, segment in enumerate(program.segments)
    )

    def shortened(call: Call) -> Call:
        return dataclasses.replace(
            call,
            output_tokens=max(1, round(call.output_tokens / output)),
            tool_s=tuple(seconds / gaps for seconds in call.tool_s),
            wait_s=None if call.wait_s is None else call.wait_s / gaps,
            gap_s=None if call.gap_s is None else call.gap_s / gaps,
        )

    return dataclasses.replace(program, segments=segments, calls=tuple(map(shortened, program.calls)))


def _repeated(found: Sequence[Program], limit: int, rng: random.Random) -> list[Program]:
    """Whole rounds of all programs, the last one in part."""
    holders = Counter(hash for program in found for hash in {segment.hash for segment in program.segments})
    chosen: list[Program] = []
    while len(chosen) < limit:
        again = len(chosen) // len(found)
        some = rng.sample(found, min(limit - len(chosen), len(found)))
        chosen += [_renamed(program, again, holders) if again else program for program in some]
    return chosen


def _renamed(program: Program, again: int, holders: Counter[str]) -> Program:
    segments = tuple(
        segment if holders[segment.hash] > 1 else Segment(f"{segment.hash}#{again}", segment.tokens)
        for segment in program.segments
    )
    return dataclasses.replace(program, program_id=f"{program.program_id}#{again}", segments=segments)
