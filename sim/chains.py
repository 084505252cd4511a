"""Names of KV blocks, from what lies in them: a trace's segments.

A block is named by a 64-bit hash of the block before it and of the pieces of segments in it, so equal names are equal
content behind an equal prefix, in every program. Only whole blocks have names. Names depend on nothing but content:
they are the same in every run and every process. A collision would make two contents one; among a million blocks the
odds are one in ten million.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

from sim.trace import Segment

_MASK = (1 << 64) - 1


class Chain(NamedTuple):
    """A text: its pieces, as indices of segments, where each ends, and the names of its whole blocks."""

    pieces: Sequence[int]
    ends: Sequence[int]
    blocks: "array[int]"

    @property
    def tokens(self) -> int:
        return self.ends[-1] if self.ends else 0


NOTHING = Chain((), (), array("Q"))


class Chains:
    """Names the blocks of texts made of the given segments."""

    def __init__(self, segments: Iterable[Segment], block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._tokens: list[int] = []
        self._names: list[int] = []
        for segment in segments:
            self._tokens.append(segment.tokens)
            self._names.append(_name(segment.hash))

    def chain(self, pieces: Sequence[int], base: Chain = NOTHING) -> Chain:
        """The chain of a text. What it begins with in common with `base` is not worked out again."""
        size = self._block_tokens
        shared = _num_shared(pieces, base.pieces)
        ends = [*base.ends[:shared]]
        start = ends[-1] if ends else 0
        if shared < len(pieces):
            ends += [start + more for more in accumulate(self._tokens[index] for index in pieces[shared:])]
        blocks = base.blocks[: start // size]
        parent = blocks[-1] if blocks else -1
        position = len(blocks) * size
        piece = bisect_right(ends, position)
        for begin in range(position, (ends[-1] if ends else 0) // size * size, size):
            end = begin + size
            key = [parent]
            while True:
                first = ends[piece - 1] if piece else 0
                last = min(ends[piece], end)
                key += (self._names[pieces[piece]], max(begin - first, 0), last - first)
                if ends[piece] <= end:
                    piece += 1
                if last == end:
                    break
            parent = hash(tuple(key)) & _MASK  # numbers only, whose hashes are the same in every process
            blocks.append(parent)
        return Chain(pieces, ends, blocks)


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading items are equal."""
    size = min(len(first), len(second))
    if first[:size] == second[:size]:
        return size
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _name(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 3
