"""Holders: who holds which blocks, so that those who hold most of a prompt are found without asking everyone.

Only a sample of the blocks is entered, by their hash: one in `sample_every(block_size)`, about one in 256 tokens, so
that memory stays a fraction of what the sets of blocks take. The deepest sampled block of a prompt that anyone holds is
found by bisection, on the same ground as prefix lengths in cache_index.py; how much each of its holders has is asked
of its own set then. Prefixes shorter than the sample's grain are not found here, and are not worth much.
"""

from collections.abc import Iterable, Sequence

_GRAIN_TOKENS = 256
NOBODY: dict[str, None] = {}


def sample_every(block_size: int) -> int:
    """One in how many blocks of so many tokens is entered: a power of two."""
    return 1 << (max(1, _GRAIN_TOKENS // max(1, block_size)).bit_length() - 1)


class Holders:
    """Names by block. A block's names are in the order in which they came."""

    def __init__(self) -> None:
        self._names: dict[int, str | dict[str, None]] = {}
        """A single name stands for itself: most blocks are in one place."""

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, hashes: Iterable[int], every: int) -> None:
        """`name` holds these blocks, of which one in `every` is entered."""
        mask = every - 1
        names = self._names
        for block in [block for block in hashes if not block & mask]:
            known = names.get(block)
            if known is None:
                names[block] = name
            elif not isinstance(known, str):
                known[name] = None
            elif known != name:
                names[block] = {known: None, name: None}

    def remove(self, name: str, hashes: Iterable[int], every: int) -> None:
        """`name` holds them no more."""
        mask = every - 1
        names = self._names
        for block in [block for block in hashes if not block & mask]:
            known = names.get(block)
            if known is None:
                continue
            if not isinstance(known, str):
                known.pop(name, None)
                if not known:
                    del names[block]
            elif known == name:
                del names[block]

    def deepest(self, block_hashes: Sequence[int], every: int) -> dict[str, None]:
        """Who holds the deepest sampled block of the chain that anyone holds. Not to be changed."""
        mask = every - 1
        names = self._names
        found: str | dict[str, None] | None = None
        low, high = 0, len(block_hashes)
        while low < high:
            middle = at = (low + high) // 2
            while at < high and block_hashes[at] & mask:
                at += 1
            known = names.get(block_hashes[at]) if at < high else None
            if known is None:
                high = middle
            else:
                found, low = known, at + 1
        if found is None:
            return NOBODY
        return {found: None} if isinstance(found, str) else found
