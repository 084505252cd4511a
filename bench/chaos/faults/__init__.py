"""What can go wrong: one file for each kind, found by its name.

A kind is a class `Fault`. `targets` are the services or nodes that it can befall; drawn for one of them, it says how
long it lasts, does its harm with `inject` and takes it back with `heal`.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from random import Random
from typing import Protocol, cast

from bench.chaos.cluster import Cluster


class Fault(Protocol):
    """One fault."""

    target: str
    seconds: float
    """From `inject` to `heal`."""

    @property
    def text(self) -> str:
        """What is done, for people."""
        ...

    async def inject(self, cluster: Cluster) -> None: ...

    async def heal(self, cluster: Cluster) -> None: ...


class Kind(Protocol):
    """A class of faults."""

    weight: float
    """How often it is drawn, beside the others."""

    @staticmethod
    def targets() -> Sequence[str]:
        """All that it can befall."""
        ...

    def __call__(self, target: str, random: Random) -> Fault: ...


def names() -> list[str]:
    """The kinds there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Kind:
    """The kind of that name."""
    return cast(Kind, importlib.import_module(f"{__name__}.{name}").Fault)
