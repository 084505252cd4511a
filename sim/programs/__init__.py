"""Agent programs of several shapes, drawn from laws fitted to real traces; each file of this folder is one shape.

A shape's module has SCALE, what its source's numbers are divided by, and `write(draft)`. Programs depend on shape,
seed and index alone: the tenth program of a seed is the same however many are asked for.
"""

import dataclasses
import importlib
import random
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from sim.programs.draft import Draft
from sim.programs.laws import Scale
from sim.trace import Program

SHAPES = ("react", "map_reduce", "debate", "plan_execute")
"""Those of agents, of which a mix is made."""
OTHERS = ("sharegpt",)


class Shape(Protocol):
    """What a shape's module offers."""

    SCALE: Scale

    def write(self, draft: Draft) -> None: ...


def load(name: str) -> Shape:
    """The shape of that name."""
    if name not in (*SHAPES, *OTHERS):
        raise ValueError(f"unknown shape {name!r}; known: {', '.join((*SHAPES, *OTHERS))}")
    return cast(Shape, importlib.import_module(f"sim.programs.{name}"))  # a module is its own protocol


def generate(name: str, count: int, seed: int, scale: Scale | None = None) -> list[Program]:
    """`count` programs of one shape without arrival times. `scale`: None for the shape's own."""
    shape = load(name)
    programs: list[Program] = []
    for index in range(count):
        draft = Draft(f"{name}-{seed}-{index:04d}", name, scale or shape.SCALE, random.Random(f"{name}/{seed}/{index}"))
        shape.write(draft)
        programs.append(draft.finish())
    return programs


def mix(
    count: int,
    seed: int,
    programs_per_second: float,
    shapes: Sequence[str] = SHAPES,
    scales: Mapping[str, Scale] | None = None,
) -> list[Program]:
    """`count` programs, the shapes in equal numbers and shuffled, with Poisson arrivals from 0 s, in arrival order.

    `scales`: by shape, where it is not the shape's own.
    """
    scales = scales or {}
    rng = random.Random(f"mix/{seed}")
    programs = [
        program
        for index, shape in enumerate(shapes)
        for program in generate(shape, (count - index + len(shapes) - 1) // len(shapes), seed, scales.get(shape))
    ]
    rng.shuffle(programs)
    arrival_s = 0.0
    arrived: list[Program] = []
    for program in programs:
        arrived.append(dataclasses.replace(program, arrival_s=round(arrival_s, 4)))
        arrival_s += rng.expovariate(programs_per_second)
    return arrived
