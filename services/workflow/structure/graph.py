"""Graph: how the programs of a family go on, from one node to the next.

A node is a role, or a step where the caller names steps. Every program that is over adds what it did; older programs
count less, by half after every `HALF_LIFE` newer ones.
"""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from services.workflow.structure.tally import (
    AND,
    END,
    FOLLOWS,
    JOINS,
    OR,
    POSITIONS,
    PROGRAMS,
    STOPPED,
    WENT_ON,
    WIDTHS,
    Tally,
    octave,
)

HALF_LIFE = 64
"""In programs."""
_GROWTH = 2 ** (1 / HALF_LIFE)
_RESCALED_AT = 2.0**20
_FORGOTTEN = 1e-3
"""Of a program: less is no evidence."""
_MAX_TURNS = 256


class Graph:
    """Of one family. What is counted last weighs most, so nothing is decayed but when the numbers get large."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._weight = 1.0
        self._programs = 0.0

    def learn(self, program: Tally) -> None:
        self._absorb(program, 1.0, 1.0)

    def merge(self, other: "Graph") -> None:
        """All that the other one learned, as if just now."""
        self._absorb(other._tally, 1 / other._weight, other.programs)

    def snapshot(self) -> dict[str, Any]:
        """As plain data."""
        return {"weight": self._weight, "programs": self._programs, "rows": self._tally.snapshot()}

    def restore(self, data: dict[str, Any]) -> None:
        """What a snapshot tells. For a graph that has learned nothing."""
        self._weight, self._programs = data["weight"], data["programs"]
        self._tally.restore(data["rows"])

    def _absorb(self, tally: Tally, scale: float, programs: float) -> None:
        self._weight *= _GROWTH
        self._tally.add(tally, self._weight * scale)
        self._programs += self._weight * programs
        if self._weight > _RESCALED_AT:
            self._tally.scale(1 / self._weight, _FORGOTTEN)
            self._programs /= self._weight
            self._weight = 1.0

    @property
    def programs(self) -> float:
        """That it rests on, older ones for less."""
        return self._programs / self._weight

    def nodes(self) -> Mapping[str, float]:
        """Share of the programs that have each."""
        tally = self._tally
        return {node: tally.row(PROGRAMS, node).get(0, 0.0) / self._programs for node in tally.nodes(PROGRAMS)}

    def next_roles(self, node: str) -> Mapping[str, float]:
        """Probability of what follows a call of the node; "": nothing does. A call that forks counts for each kind of
        child, and the probabilities add up to one."""
        row = self._tally.row(FOLLOWS, node)
        total = sum(row.values())
        return {str(child): number / total for child, number in row.items()} if total else {}

    def edges(self, least: float = 0.0) -> Mapping[tuple[str, str], float]:
        """Probability of each edge, ends left out, from `least` on."""
        return {
            (node, child): share
            for node in self._tally.nodes(FOLLOWS)
            for child, share in self.next_roles(node).items()
            if child != END and share >= least
        }

    def loops(self) -> Mapping[tuple[str, str], float]:
        """Edges back to the node itself or to one that programs come to earlier, and how often a program that has the
        node takes them."""
        found: dict[tuple[str, str], float] = {}
        for node in self._tally.nodes(FOLLOWS):
            programs = self._tally.row(PROGRAMS, node).get(0, 0.0)
            for child, number in self._tally.row(FOLLOWS, node).items():
                if child != END and programs and self._position(str(child)) <= self._position(node):
                    found[node, str(child)] = number / programs
        return found

    def widths(self, node: str) -> Mapping[int, float]:
        """Law of how many calls of the node begin at once."""
        row = self._tally.row(WIDTHS, node)
        total = sum(row.values())
        return {int(width): number / total for width, number in sorted(row.items()) if number} if total else {}

    def joins(self, node: str) -> tuple[float, float]:
        """Shares of the node's calls that wait for all of several siblings, and that go on with the first of them."""
        row, calls = self._tally.row(JOINS, node), sum(self._tally.row(FOLLOWS, node).values())
        return (min(1.0, row.get(AND, 0.0) / calls), min(1.0, row.get(OR, 0.0) / calls)) if calls else (0.0, 0.0)

    def turns_left(self, node: str, turn: int) -> float:
        """Calls that the chain is expected to make after this one, which is its `turn`th from 0 on."""
        went_on, stopped = self._tally.row(WENT_ON, node), self._tally.row(STOPPED, node)
        some = self._weight * _FORGOTTEN
        overall = (sum(went_on.values()) + some) / (sum(went_on.values()) + sum(stopped.values()) + 2 * some)
        expected, alive = 0.0, 1.0
        while alive > 0.01 and turn < _MAX_TURNS:
            on, off = went_on.get(octave(turn), 0.0), stopped.get(octave(turn), 0.0)
            # Where little is known of so late a turn, all turns speak.
            prior = self._weight
            alive *= (on + prior * overall) / (on + off + prior)
            expected += alive
            turn += 1
        return expected

    def likeness(self, other: "Graph") -> float:
        """Cosine of the edges' weights, 1: the same graph."""
        mine, theirs = self._flows(), other._flows()
        length = sqrt(sum(flow * flow for flow in mine.values()) * sum(flow * flow for flow in theirs.values()))
        return sum(flow * theirs.get(edge, 0.0) for edge, flow in mine.items()) / length if length else 0.0

    def _flows(self) -> dict[tuple[str, str | int], float]:
        tally = self._tally
        return {
            (node, child): number for node in tally.nodes(FOLLOWS) for child, number in tally.row(FOLLOWS, node).items()
        }

    def _position(self, node: str) -> float:
        programs = self._tally.row(PROGRAMS, node).get(0, 0.0)
        return self._tally.row(POSITIONS, node).get(0, 0.0) / programs if programs else 0.0
