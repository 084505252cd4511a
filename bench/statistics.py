"""Statistics of programs by which generated and recorded workloads are compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sim.trace import Call, Program


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a set of programs; sharing as shares of prompt tokens found in an infinite prefix cache."""

    programs: int
    calls: int
    calls_p50: float
    calls_p90: float
    prompt_p50: float
    prompt_p90: float
    output_p50: float
    output_p90: float
    own: float
    """Prompt tokens already sent by the same program."""
    first_call: float
    """Tokens of first prompts already sent by other programs."""
    width_p50: float
    """Calls at the widest level of a program's graph."""
    width_max: int
    tool_s_p50: float
    tool_s_p90: float

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in asdict(self).items()
        )


def describe(programs: Sequence[Program]) -> Statistics:
    """Statistics of at least one program."""
    calls = [(program, call) for program in programs for call in program.calls]
    num_calls = [len(program.calls) for program in programs]
    prompts = [program.prompt_tokens(call) for program, call in calls]
    outputs = [call.output_tokens for _, call in calls]
    widths = [width(program) for program in programs]
    tools = [seconds for _, call in calls for seconds in call.tool_s]
    return Statistics(
        programs=len(programs),
        calls=len(calls),
        calls_p50=quantile(num_calls, 0.5),
        calls_p90=quantile(num_calls, 0.9),
        prompt_p50=quantile(prompts, 0.5),
        prompt_p90=quantile(prompts, 0.9),
        output_p50=quantile(outputs, 0.5),
        output_p90=quantile(outputs, 0.9),
        own=_own_share(programs),
        first_call=_first_share(programs),
        width_p50=quantile(widths, 0.5),
        width_max=max(widths),
        tool_s_p50=quantile(tools, 0.5),
        tool_s_p90=quantile(tools, 0.9),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation; 0 for no values."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share)) if values else 0.0


def width(program: Program) -> int:
    """Calls at the widest level of the graph."""
    level: dict[int, int] = {}
    for call in program.calls:
        level[call.id] = 1 + max((level[parent] for parent in call.parents), default=-1)
    levels = list(level.values())
    return max(levels.count(depth) for depth in set(levels))


class _PrefixCache:
    """Remembers every prefix, as a chain of hashes."""

    def __init__(self) -> None:
        self._known: set[tuple[int, str]] = set()

    def send(self, program: Program, call: Call) -> int:
        """Tokens of the call's longest known prefix; the whole prompt is known from now on."""
        cached, chain, hit = 0, 0, True
        for index in call.prompt:
            segment = program.segments[index]
            link = (chain, segment.hash)
            hit = hit and link in self._known
            cached += segment.tokens if hit else 0
            self._known.add(link)
            chain = hash(link)
        return cached


def _own_share(programs: Sequence[Program]) -> float:
    cached = total = 0
    for program in programs:
        cache = _PrefixCache()
        cached += sum(cache.send(program, call) for call in program.calls)
        total += sum(program.prompt_tokens(call) for call in program.calls)
    return cached / total


def _first_share(programs: Sequence[Program]) -> float:
    cache = _PrefixCache()
    cached = total = 0
    for program in programs:
        cached += cache.send(program, program.calls[0])
        total += program.prompt_tokens(program.calls[0])
        for call in program.calls[1:]:
            cache.send(program, call)
    return cached / total
