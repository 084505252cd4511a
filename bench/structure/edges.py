"""Edges: the parents that were inferred, beside those that the trace tells.

Both are reduced transitively: a parent that another parent waited for says nothing new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.workflow.structure import Seen
from sim.trace import Program


@dataclass
class Score:
    """How many there are, were said, and were said rightly."""

    true: int = 0
    said: int = 0
    right: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.said if self.said else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 1.0

    def add(self, true: set[str], said: set[str]) -> None:
        self.true += len(true)
        self.said += len(said)
        self.right += len(true & said)

    def __iadd__(self, other: "Score") -> "Score":
        self.true += other.true
        self.said += other.said
        self.right += other.right
        return self


@dataclass
class Edges:
    """Of one set."""

    edges: Score = field(default_factory=Score)
    joins: Score = field(default_factory=Score)
    """Calls with several parents: found, whoever the parents are said to be."""
    joined: Score = field(default_factory=Score)
    """The edges of these calls."""

    def add(self, program: Program, seen: Mapping[str, Seen]) -> None:
        truth = reduced(program)
        for call in program.calls:
            true, said = truth[call.id], set(seen[str(call.id)].parents)
            self.edges.add(true, said)
            one = {str(call.id)}
            self.joins.add(one if len(true) > 1 else set(), one if len(said) > 1 else set())
            if len(true) > 1:
                self.joined.add(true, said)

    def __iadd__(self, other: "Edges") -> "Edges":
        self.edges += other.edges
        self.joins += other.joins
        self.joined += other.joined
        return self


def reduced(program: Program) -> Sequence[set[str]]:
    """Each call's parents, without those that another of its parents waited for."""
    behind: list[int] = []
    found: list[set[str]] = []
    for call in program.calls:
        mask = 0
        covered = 0
        for parent in call.parents:
            mask |= behind[parent]
            covered |= behind[parent] & ~(1 << parent)
        found.append({str(parent) for parent in call.parents if not covered >> parent & 1})
        behind.append(mask | 1 << call.id)
    return found
