"""Tally: what follows what, counted. A program has one; its family has the decaying sum of all of its programs'."""

from typing import Any, TypeAlias

Row: TypeAlias = dict[str | int, float]

END = ""
"""Follows a call that nothing follows."""
FOLLOWS = "follows"
"""By node, by child: calls that at least one call of the child waited for."""
JOINS = "joins"
"""By node, `AND`: calls that waited for all of several siblings; `OR`: that went on while others of them ran."""
AND, OR = "and", "or"
WIDTHS = "widths"
"""By node, by number: forks into so many calls of the node."""
WENT_ON, STOPPED = "went on", "stopped"
"""By node, by octave of the turn: calls that their chain went on from, or ended with."""
PROGRAMS, POSITIONS = "programs", "positions"
"""By node, one key: programs that have it, and the sum of the positions of its first call in each."""

_MAX_ROWS = 1024
_MAX_KEYS = 128


class Tally:
    """Rows of counts, by what is counted and node. Bounded: beyond so many rows and keys nothing new is counted."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def count(self, what: str, node: str, key: str | int, by: float = 1.0) -> None:
        row = self._rows.get((what, node))
        if row is None:
            if len(self._rows) >= _MAX_ROWS:
                return
            row = self._rows[what, node] = {}
        if key in row or len(row) < _MAX_KEYS:
            row[key] = row.get(key, 0.0) + by

    def row(self, what: str, node: str) -> Row:
        return self._rows.get((what, node), {})

    def nodes(self, what: str) -> list[str]:
        return [node for kind, node in self._rows if kind == what]

    def add(self, other: "Tally", weight: float) -> None:
        """All that the other one counted, times `weight`."""
        for (what, node), row in other._rows.items():
            for key, number in row.items():
                if number:
                    self.count(what, node, key, weight * number)

    def snapshot(self) -> list[Any]:
        """As plain data."""
        return [[what, node, list(row.items())] for (what, node), row in self._rows.items()]

    def restore(self, data: list[Any]) -> None:
        """What a snapshot tells. For a tally that has counted nothing."""
        for what, node, row in data:
            for key, number in row:
                self.count(what, node, key, number)

    def scale(self, factor: float, least: float) -> None:
        """All counts times `factor`; what is then less than `least` is forgotten."""
        for name, row in list(self._rows.items()):
            kept = {key: number * factor for key, number in row.items() if number * factor >= least}
            if kept:
                self._rows[name] = kept
            else:
                del self._rows[name]


def octave(turn: int) -> int:
    """0; 1; 2 and 3; 4 to 7; ..."""
    return turn.bit_length()
