"""Tables in plain text."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+(\.\d+)?(%|s|[KMGT]iB|B)?")


def lines_of(rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as needed, two blanks apart; text to the left, numbers (also `5%`, `1.5s`, `2GiB`) to the right.

    The first row is the heading; each column goes the way of its second row.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [_NUMBER.fullmatch(cell) is not None for cell in (cells[1] if len(cells) > 1 else cells[0])]
    return ["  ".join(_aligned(*cell) for cell in zip(row, widths, right, strict=True)).rstrip() for row in cells]


def _aligned(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)
