"""What the structure says of a call as it begins."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Key: TypeAlias = tuple[str | int, ...]
"""A kind of program."""


class Seen(NamedTuple):
    """One call's place."""

    kinds: Sequence[Key]
    """Of its program, the most general first: all, its tenant's, those that begin alike, ..., its family."""
    role: str
    """The agent's name, else a fingerprint of what its prompt begins with."""
    parents: tuple[str, ...]
    """Calls that it waited for: as declared, else inferred from content and time."""
    predecessor: str
    """The call whose prompt and output it extends; empty: none."""
    turn: int
    """Calls before it in its chain of predecessors."""
