"""CacheIndex: which worker's prefix cache holds which blocks, as the engines report it.

Memory is bounded by what fits in the engines: the cache of a worker that claims more blocks than it has is forgotten
until it reports anew. A set per worker keeps updates and the loss of a worker at C speed.

Prefix lengths rest on one property of the engines: a block's prefix is never evicted before the block (vLLM frees a
request's blocks from the tail), so a cached prefix can be found by bisection. Where an engine breaks it, a length may
be too great, which costs a worse placement and nothing else.
"""

from collections.abc import Container, Iterable, Sequence


class CacheIndex:
    """Blocks are named by the low 64 bits of their chained hash."""

    def __init__(self) -> None:
        self._held: dict[str, set[int]] = {}
        self._bounds: dict[str, int] = {}

    def join(self, worker_id: str, num_blocks: int) -> None:
        """A worker came, its cache is empty."""
        self._held[worker_id] = set()
        self._bounds[worker_id] = num_blocks

    def leave(self, worker_id: str) -> None:
        """A worker and all its blocks went."""
        self._held.pop(worker_id, None)
        self._bounds.pop(worker_id, None)

    def update(self, worker_id: str, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        """A worker's cache changed."""
        held = self._held.get(worker_id)
        if held is None:
            return
        if reset:
            held.clear()
        held.difference_update(removed)
        held.update(stored)
        if len(held) > self._bounds[worker_id]:
            held.clear()

    def num_blocks(self, worker_id: str) -> int:
        """Blocks known to be in the worker's cache."""
        return len(self._held.get(worker_id, ()))

    def match(self, block_hashes: Sequence[int], worker_ids: Iterable[str]) -> dict[str, int]:
        """How many of the leading blocks each of the workers holds; workers without any are left out."""
        if not block_hashes:
            return {}
        matches: dict[str, int] = {}
        first = block_hashes[0]
        guess = 1
        for worker_id in worker_ids:
            held = self._held[worker_id]
            if first in held:
                guess = prefix_length(block_hashes, held, guess)
                matches[worker_id] = guess
        return matches


def prefix_length(hashes: Sequence[int], held: Container[int], guess: int) -> int:
    """Length of the held prefix, at least 1. `guess` (most workers share a system prompt's length) is tried first."""
    low, high = 1, len(hashes)
    if hashes[guess - 1] in held:
        if guess == high or hashes[guess] not in held:
            return guess
        low = guess + 1
    else:
        high = guess - 1
    while low < high:
        middle = (low + high + 1) // 2
        if hashes[middle - 1] in held:
            low = middle
        else:
            high = middle - 1
    return low
