"""A sequence's block table: its blocks in the pool, the leading ones named by the hashes of its content."""

from collections.abc import Sequence

from services.worker.simulated.blocks import BlockPool


class BlockTable:
    """The blocks of one sequence. `hashes` names its full blocks in order; blocks beyond them are never shared."""

    __slots__ = ("_block_size", "_copies", "_hashes", "_num_named", "_pool", "num_held", "room")

    def __init__(self, pool: BlockPool, block_size: int, hashes: Sequence[int]) -> None:
        self._pool = pool
        self._block_size = block_size
        self._hashes = hashes
        self._num_named = 0
        """The leading blocks that were offered to the cache."""
        self._copies: set[int] = set()
        """Those of them that found their name taken and stayed private."""
        self.num_held = 0
        self.room = 0
        """Tokens that fit into the blocks held."""

    def begin(self, num_tokens: int) -> int | None:
        """Hold the cached prefix of an empty table if the rest of `num_tokens` fits too: tokens that were cached.

        At least one token is left to compute, for there is no output without it. None: it does not fit.
        """
        hit = self._pool.match(self._hashes, (num_tokens - 1) // self._block_size)
        prefix = self._hashes[:hit]
        if self._needed(num_tokens, prefix) > self._pool.num_free:
            return None
        self._pool.hold(prefix)
        self.num_held = self._num_named = hit
        self.room = hit * self._block_size
        return self.room

    def num_missing(self, num_tokens: int) -> int:
        """How many blocks the pool has too few of for an empty table to `begin` with."""
        hit = self._pool.match(self._hashes, (num_tokens - 1) // self._block_size)
        return self._needed(num_tokens, self._hashes[:hit]) - self._pool.num_free

    def num_lacking(self, num_tokens: int) -> int:
        """How many blocks more it takes to hold `num_tokens`."""
        return -(-num_tokens // self._block_size) - self.num_held

    def num_sole(self) -> int:
        """How many of its blocks nobody else holds."""
        named = self.named()
        return self.num_held - len(named) + self._pool.num_sole(named)

    def reserve(self, num_tokens: int) -> bool:
        """Make room for `num_tokens`. False: no block is free."""
        needed = self.num_lacking(num_tokens)
        if not self._pool.allocate(needed):
            return False
        self.num_held += needed
        self.room = self.num_held * self._block_size
        return True

    def grow(self, num_tokens: int) -> bool:
        """Make room for `num_tokens` and offer the blocks that they fill to the cache. False: no block is free."""
        if not self.reserve(num_tokens):
            return False
        self.name(num_tokens)
        return True

    def name(self, num_tokens: int) -> None:
        """Offer the blocks that the first `num_tokens` fill to the cache."""
        full = min(num_tokens // self._block_size, len(self._hashes))
        for index in range(self._num_named, full):
            if not self._pool.name(self._hashes[index]):
                self._copies.add(index)
        self._num_named = max(self._num_named, full)

    def _needed(self, num_tokens: int, prefix: Sequence[int]) -> int:
        """Blocks of the free ones that it takes to hold `num_tokens` of which `prefix` is cached."""
        return -(-num_tokens // self._block_size) - len(prefix) + self._pool.num_idle(prefix)

    def free(self) -> None:
        """Give all blocks back, the last one first."""
        named = self.named()
        self._pool.release(reversed(named), self.num_held - len(named))
        self.num_held = self._num_named = self.room = 0
        self._copies.clear()

    def named(self) -> Sequence[int]:
        """The hashes under which it shares blocks, in order."""
        offered = self._hashes[: self._num_named]
        if not self._copies:
            return offered
        return [block_hash for index, block_hash in enumerate(offered) if index not in self._copies]
