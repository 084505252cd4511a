"""Prefixes: which leading blocks the users of one KV cache have, each block counted once however many share it.

A radix tree. Prompts are compared by marks, the hashes of some of their blocks: hashes are chained, so equal marks mean
equal prefixes. Between n and 2n blocks there are `_MARKS`, so that what two prompts share is known to a sixteenth. A
step costs the branchings on the path and a bisection at the last; where a new one begins, also the users there.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import ne
from typing import Generic, TypeVar

_MARKS = 16
_LONGEST_BLOCKS = 1 << 24
Marks = tuple[int, ...]
_U = TypeVar("_U")


def _depths() -> Iterator[int]:
    blocks = 1
    while blocks < _LONGEST_BLOCKS:
        yield blocks
        blocks += max(1, (1 << blocks.bit_length() - 1) // _MARKS)


_DEPTHS = list(_depths())
"""Blocks before and with each mark."""


def marks_of(block_hashes: Sequence[int]) -> Marks:
    """Of a prompt's full blocks."""
    count = bisect_right(_DEPTHS, len(block_hashes))
    return tuple([block_hashes[depth - 1] for depth in _DEPTHS[:count]])


def depth(num_marks: int) -> int:
    """Blocks before and with so many marks."""
    return _DEPTHS[num_marks - 1] if num_marks else 0


class _Node(Generic[_U]):
    """A stretch of marks that all its users have."""

    __slots__ = ("children", "end", "marks", "start", "users")

    def __init__(self, marks: Marks, start: int, end: int) -> None:
        self.marks = marks
        self.start = start
        self.end = end
        self.users: dict[_U, None] = {}
        """Oldest first: that one pays for it."""
        self.children: dict[int, _Node[_U]] = {}

    @property
    def blocks(self) -> int:
        return depth(self.end) - depth(self.start)

    def common(self, marks: Marks) -> int:
        """Where the marks leave it, or its end."""
        end = min(self.end, len(marks))
        if self.marks[end - 1] == marks[end - 1]:
            return end
        ours = self.marks
        return bisect_left(range(end), True, self.start, key=lambda i: ne(ours[i], marks[i]))

    def split(self, at: int) -> None:
        """Two of it: up to that mark, and beyond."""
        beyond = _Node[_U](self.marks, at, self.end)
        beyond.users, beyond.children = dict(self.users), self.children
        self.end, self.children = at, {self.marks[at]: beyond}

    def join(self) -> None:
        """One of it and its only child, where that has the same users."""
        if len(self.children) == 1:
            (child,) = self.children.values()
            if len(child.users) == len(self.users):
                self.marks, self.end, self.children = child.marks, child.end, child.children


class Prefixes(Generic[_U]):
    def __init__(self) -> None:
        self.blocks = 0
        """Different ones."""
        self._roots: dict[int, _Node[_U]] = {}

    @property
    def num_nodes(self) -> int:
        """What it takes: at most two for each user."""
        count, nodes = 0, list(self._roots.values())
        while nodes:
            count += 1
            nodes += nodes.pop().children.values()
        return count

    def common(self, marks: Marks) -> int:
        """Leading blocks that somebody has."""
        at, nodes = 0, self._roots
        while at < len(marks) and (node := nodes.get(marks[at])) is not None:
            at = node.common(marks)
            if at < node.end:
                break
            nodes = node.children
        return depth(at)

    def enter(self, user: _U, marks: Marks) -> int:
        """Leading blocks that others have and pay for."""
        at, nodes = 0, self._roots
        while at < len(marks) and (node := nodes.get(marks[at])) is not None:
            at = node.common(marks)
            if at < node.end:
                node.split(at)
            node.users[user] = None
            nodes = node.children
        if at < len(marks):
            rest = nodes[marks[at]] = _Node[_U](marks, at, len(marks))
            rest.users[user] = None
            self.blocks += rest.blocks
        return depth(at)

    def leave(self, user: _U, marks: Marks) -> list[tuple[_U, int]]:
        """Take it out, with the marks that it came with; who pays from now on for what it paid for, and how much."""
        heirs: list[tuple[_U, int]] = []
        path: list[_Node[_U]] = []
        at, nodes = 0, self._roots
        while at < len(marks):
            node = nodes[marks[at]]
            paid = next(iter(node.users)) == user
            del node.users[user]
            if not node.users:  # nor has anybody what lies beyond
                del nodes[marks[at]]
                self.blocks -= depth(len(marks)) - depth(at)
                break
            if paid:
                heirs.append((next(iter(node.users)), node.blocks))
            path.append(node)
            at, nodes = node.end, node.children
        for node in reversed(path):
            node.join()
        return heirs
