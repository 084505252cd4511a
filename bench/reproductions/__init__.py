"""What papers report, set up again in the simulator as far as it models their setting; each file here is one paper.

A reproduction says what was claimed, what is simulated, what came out and why that differs. Absolute times are those of
our cost model; ratios and orders are what is compared.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    what: str
    published: str
    ours: str
    holds: bool | None = None
    """Whether what was claimed is seen; None: it is no claim."""


class Reproduction(Protocol):
    """What a file of this folder offers."""

    TITLE: str
    HEADLINE: str
    """What was claimed."""
    SETTING: str
    """What is simulated."""
    DIFFERENCE: str
    """What of the paper's setting is not, and what that does to the figures."""

    def measure(self) -> Sequence[Row]: ...


def names() -> list[str]:
    """The files of this folder that are reproductions."""
    return sorted(item.name for item in pkgutil.iter_modules(__path__) if item.name not in ("__main__", "runs"))


def load(name: str) -> Reproduction:
    """The one of that name."""
    if name not in names():
        raise ValueError(f"unknown reproduction {name!r}; known: {', '.join(names())}")
    return cast(Reproduction, importlib.import_module(f"bench.reproductions.{name}"))  # a module is its own protocol


def measured_rows(name: str) -> Sequence[Row]:
    """Of the one of that name, for a process of its own."""
    return load(name).measure()
