"""ReplicaIndex: which pool holds which blocks, by tier, as the pools report it.

Memory is bounded by what fits in the pools: what a pool claims beyond that is not remembered. Prefix lengths are found
by bisection, as in cache_index.py and on the same ground: what leaves a pool leaves from the end of its chain. Blocks
in shared memory may lie behind others that are on disk; then the prefix in shared memory is taken for shorter than
what is there, and `num_in_dram` counts for who must know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.scheduler.cache_index import prefix_length
from services.scheduler.holders import NOBODY, Holders
from services.scheduler.pool_events import ReplicaUpdate

_LEAST_BLOCK_BYTES = 1024
_MOST_BLOCKS = 4_000_000
"""Of one pool; some 300 MB here. 2 TB of a 70B model's 16-token blocks are 400,000."""
_SAMPLED = 4
"""One in so many blocks is entered in `holders`; how many tokens a block has is not known here."""


class Held(NamedTuple):
    """How many leading blocks of a chain a pool holds."""

    dram: int
    """Before the first that is not in shared memory."""
    total: int
    """In any tier."""


NOTHING = Held(0, 0)


@dataclass(slots=True)
class _Blocks:
    dram: set[int] = field(default_factory=set[int])
    every: set[int] = field(default_factory=set[int])
    """In any tier."""


class ReplicaIndex:
    """By namespace and pool."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[str, _Blocks]] = {}
        self._bounds: dict[str, int] = {}
        self._holders: dict[str, Holders] = {}
        """By namespace."""

    def join(self, pool_id: str, capacity_bytes: int) -> None:
        """A pool answers; what is known of it stays."""
        self._pools.setdefault(pool_id, {})
        self._bounds[pool_id] = min(capacity_bytes // _LEAST_BLOCK_BYTES, _MOST_BLOCKS)

    def leave(self, pool_id: str) -> None:
        """Forget a pool."""
        self.reset(pool_id)
        self._pools.pop(pool_id, None)
        self._bounds.pop(pool_id, None)

    def reset(self, pool_id: str) -> None:
        """Forget what a pool holds."""
        for namespace_id, blocks in self._pools.get(pool_id, {}).items():
            self._let_go(pool_id, namespace_id, blocks.every)
        if pool_id in self._pools:
            self._pools[pool_id] = {}

    def update(self, pool_id: str, update: ReplicaUpdate) -> None:
        """A pool's contents changed."""
        spaces = self._pools.get(pool_id)
        if spaces is None:
            return
        blocks = spaces.setdefault(update.namespace_id, _Blocks())
        blocks.every.difference_update(update.removed)
        self._let_go(pool_id, update.namespace_id, update.removed)
        blocks.dram.difference_update(update.removed)
        blocks.dram.difference_update(update.ssd)
        came = len(update.dram) + len(update.ssd)
        if self.num_blocks(pool_id) + came <= self._bounds[pool_id]:
            blocks.every.update(update.ssd)
            blocks.every.update(update.dram)
            blocks.dram.update(update.dram)
            holders = self._holders.setdefault(update.namespace_id, Holders())
            holders.add(pool_id, update.ssd, _SAMPLED)
            holders.add(pool_id, update.dram, _SAMPLED)
        if not blocks.every:
            del spaces[update.namespace_id]

    def num_blocks(self, pool_id: str) -> int:
        """Blocks known to be in the pool."""
        return sum(len(blocks.every) for blocks in self._pools.get(pool_id, {}).values())

    def match(self, namespace_id: str, block_hashes: Sequence[int], pool_ids: Iterable[str]) -> dict[str, Held]:
        """What each of the pools holds of the chain; pools that hold nothing are left out."""
        matches: dict[str, Held] = {}
        guess = 1
        for pool_id in pool_ids:
            blocks = self._pools[pool_id].get(namespace_id)
            if blocks is not None and block_hashes[0] in blocks.every:
                guess = total = prefix_length(block_hashes, blocks.every, guess)
                in_dram = block_hashes[0] in blocks.dram
                matches[pool_id] = Held(prefix_length(block_hashes, blocks.dram, total) if in_dram else 0, total)
        return matches

    def holders(self, namespace_id: str, block_hashes: Sequence[int]) -> dict[str, None]:
        """The pools that hold most of the chain, as far as samples tell."""
        holders = self._holders.get(namespace_id)
        return NOBODY if holders is None else holders.deepest(block_hashes, _SAMPLED)

    def num_in_dram(self, pool_id: str, namespace_id: str, block_hashes: Sequence[int]) -> int:
        """How many of the blocks, prefix or not, the pool has in shared memory."""
        blocks = self._pools.get(pool_id, {}).get(namespace_id)
        return 0 if blocks is None else sum(map(blocks.dram.__contains__, block_hashes))

    def _let_go(self, pool_id: str, namespace_id: str, blocks: Iterable[int]) -> None:
        holders = self._holders.get(namespace_id)
        if holders is not None:
            holders.remove(pool_id, blocks, _SAMPLED)
            if not holders:
                del self._holders[namespace_id]
