"""Keeps the blocks of calls that ended in the engine's own cache for a while, without taking them from anyone.

vLLM reuses free blocks from the front of a queue. Kept blocks are free as well; they are moved to the back of that
queue again before those in front of them run out. So they are reused last, those first whose time ends first, count as
free for every admission, and no request ever waits for them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId, KVCacheBlock

_LEAST_AHEAD = 8
"""One in so many free blocks stays in front of the kept ones; so moving these costs little for each block used."""


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    blocks: "Sequence[tuple[KVCacheBlock, BlockHashWithGroupId]]"


class Retention:
    """Over vLLM's block pool. `now` comes from outside; all methods run on the scheduler's thread."""

    def __init__(self, pool: "BlockPool") -> None:
        self._pool = pool
        self._kept: dict[Hashable, _Kept] = {}
        self._ahead = 0
        """Free blocks in front of the kept ones, at least."""
        self._num_free = -1
        """When the kept ones were last moved, while nothing was taken since."""

    def __len__(self) -> int:
        """How many calls' blocks are kept."""
        return len(self._kept)

    def keep(self, owner: Hashable, block_ids: Sequence[int], until: float) -> None:
        """Keep these blocks, in the order of their chain, instead of the owner's earlier ones. They are in use now."""
        found = [self._pool.blocks[block_id] for block_id in block_ids]
        blocks = [(block, block.block_hash) for block in found if block.block_hash is not None]
        self._kept.pop(owner, None)
        self._num_free = -1
        if blocks:
            self._kept[owner] = _Kept(until, blocks)

    def taken(self, num_blocks: int) -> None:
        """So many blocks were taken from the pool."""
        if num_blocks:
            self._ahead -= num_blocks
            self._num_free = -1

    def make_room(self, num_blocks: int, now: float) -> None:
        """So many may be taken next: have as many in front of the kept blocks, if there are."""
        if self._kept and self._ahead < num_blocks and self._num_free != self._pool.get_num_free_blocks():
            self._move_back(now)

    def _move_back(self, now: float) -> None:
        num_free = self._num_free = self._pool.get_num_free_blocks()
        allowed = num_free - num_free // _LEAST_AHEAD
        by_time = sorted(self._kept.items(), key=lambda item: -item[1].until)
        self._kept.clear()
        chosen: list[list[KVCacheBlock]] = []
        seen: set[int] = set()
        for owner, kept in by_time:
            if kept.until <= now:
                break
            # Blocks that were reused are another's; those in use are safe, and free again at the back.
            own = [(block, key) for block, key in kept.blocks if block.block_hash == key]
            idle = [block for block, _ in own if block.ref_cnt == 0 and block.block_id not in seen]
            if len(seen) + len(idle) > allowed:
                break
            seen.update(block.block_id for block in idle)
            if own:
                self._kept[owner] = _Kept(kept.until, own)
                chosen.append(idle)
        for blocks in reversed(chosen):
            self._pool.touch(blocks)
            self._pool.free_blocks(reversed(blocks))  # a chain loses its tail first
        self._ahead = num_free - len(seen)
