"""Agent programs with tool gaps, fan-outs and shared prompts, and their prompts' exact lengths.

More arrives than two engines can serve, so calls queue, and an engine's KV memory holds a few contexts only, so some
are evicted while their tools run.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from bench.drive import conversation
from services.gateway.template import load_template
from sim import programs as shapes
from sim.trace import Program, Segment

_TAIL = "fidelity/tail"
_MARK = "\ue000"
"""Stands for a message's content; no template and no content has it."""

Lengths = Callable[[Sequence[tuple[str, str]]], list[int]]
"""Tokens of each (role, content) of a conversation, and of what follows the last."""


def programs(count: int, programs_per_second: float, seed: int) -> list[Program]:
    """Programs of all shapes with Poisson arrivals.

    The driver sends made-up text in place of what the model said, so no output comes back in a later prompt.
    """
    return [
        dataclasses.replace(program, calls=tuple(dataclasses.replace(call, output=()) for call in program.calls))
        for program in shapes.mix(count, seed, programs_per_second)
    ]


def exact(made: Iterable[Program], model: Path) -> list[Program]:
    """The same programs with segments as long as the model's template and tokenizer make them.

    A segment's tokens are those from the end of the message before it to its own end. What follows the last message is
    a segment of its own.
    """
    tokenizer, template = Tokenizer.from_file(str(model / "tokenizer.json")), load_template(model)

    @cache
    def length(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    def lengths(contents: Sequence[tuple[str, str]]) -> list[int]:
        marked = [{"role": role, "content": _MARK} for role, _ in contents]
        *before, last = template.render(marked, (), {}).split(_MARK)
        found = [length(header + content) for header, (_, content) in zip(before, contents, strict=True)]
        return [*found, length(last)]

    return [_exact(program, lengths) for program in made]


def _exact(program: Program, lengths: Lengths) -> Program:
    """A segment is as long as its place makes it: the first message has another header."""
    places: dict[tuple[str, int], int] = {}
    calls = list(program.calls)
    for position, call in enumerate(calls):
        messages = conversation(program, call)
        told = lengths([(message.role, message.content) for message in messages])
        names = [*(program.segments[index].hash for index in call.prompt), _TAIL]
        prompt = tuple(places.setdefault(place, len(places)) for place in zip(names, told, strict=True))
        calls[position] = dataclasses.replace(call, prompt=prompt)
    segments = tuple(Segment(f"{name}/{tokens}", tokens) for name, tokens in places)
    return dataclasses.replace(program, segments=segments, calls=tuple(calls))
