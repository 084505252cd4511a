"""CacheIndex: which worker's prefix cache holds which blocks, as the engines report it.

Memory is bounded by what fits in the engines: the cache of a worker that claims more blocks than it has is forgotten
until it reports anew. A set per worker keeps updates and the loss of a worker at C speed; `holders` finds workers by
what they hold.

Prefix lengths rest on one property of the engines: a block's prefix is never evicted before the block (vLLM frees a
request's blocks from the tail), so a cached prefix can be found by bisection. Where an engine breaks it, a length may
be too great, which costs a worse placement and nothing else.
"""

from collections.abc import Container, Iterable, Sequence

from services.scheduler.holders import Holders, sample_every


class CacheIndex:
    """Blocks are named by the low 64 bits of their chained hash."""

    def __init__(self) -> None:
        self._held: dict[str, set[int]] = {}
        self._bounds: dict[str, int] = {}
        self._every: dict[str, int] = {}
        self._holders = Holders()

    def join(self, worker_id: str, num_blocks: int, block_size: int = 16) -> None:
        """A worker came, its cache is empty."""
        self.leave(worker_id)
        self._held[worker_id] = set()
        self._bounds[worker_id] = num_blocks
        self._every[worker_id] = sample_every(block_size)

    def leave(self, worker_id: str) -> None:
        """A worker and all its blocks went."""
        if worker_id in self._held:
            self._clear(worker_id)
            del self._held[worker_id], self._bounds[worker_id], self._every[worker_id]

    def update(self, worker_id: str, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        """A worker's cache changed."""
        held = self._held.get(worker_id)
        if held is None:
            return
        if reset:
            self._clear(worker_id)
        every = self._every[worker_id]
        held.difference_update(removed)
        self._holders.remove(worker_id, removed, every)
        held.update(stored)
        self._holders.add(worker_id, stored, every)
        if len(held) > self._bounds[worker_id]:
            self._clear(worker_id)

    def num_blocks(self, worker_id: str) -> int:
        """Blocks known to be in the worker's cache."""
        return len(self._held.get(worker_id, ()))

    def holds(self, worker_id: str, block: int) -> bool:
        """Is the block in the worker's cache?"""
        return block in self._held[worker_id]

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

    def holders(self, block_hashes: Sequence[int], block_size: int) -> dict[str, None]:
        """The workers that hold most of the chain, as far as samples tell."""
        return self._holders.deepest(block_hashes, sample_every(block_size))

    def _clear(self, worker_id: str) -> None:
        held = self._held[worker_id]
        self._holders.remove(worker_id, held, self._every[worker_id])
        held.clear()


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
