"""Paged KV blocks with a prefix cache: which blocks are in use, which are kept, which leaves next.

A block is *private* (unnamed, of one sequence) or *named* by the chained hash of the tokens up to its end. Named blocks
are shared and counted; one that nobody uses stays until its room is needed, the least recently freed first. As in
vLLM, a sequence frees its blocks from the last to the first, so that the tail of a prefix leaves before its head, and
rooms without a name are given out before any kept block is evicted. A second block of the same content stays private.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice


class BlockPool:
    """Counts `num_blocks` blocks. Nothing here knows about tokens or sequences."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_private = 0
        self._uses: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    @property
    def num_used(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_private + len(self._uses) - len(self._idle)

    @property
    def num_free(self) -> int:
        """Blocks that can be had, by eviction if need be."""
        return self.num_blocks - self.num_used

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many of the leading `limit` hashes are here without a gap."""
        found = 0
        for block_hash in islice(hashes, limit):
            if block_hash not in self._uses:
                break
            found += 1
        return found

    def num_idle(self, hashes: Iterable[int]) -> int:
        """How many of these present hashes are held by nobody."""
        return sum(1 for block_hash in hashes if self._uses[block_hash] == 0)

    def hold(self, hashes: Iterable[int]) -> None:
        """Begin to use named blocks that are here."""
        for block_hash in hashes:
            uses = self._uses[block_hash]
            if uses == 0:
                del self._idle[block_hash]
            self._uses[block_hash] = uses + 1

    def allocate(self, count: int) -> bool:
        """Take `count` private blocks, all or none."""
        if count > self.num_free:
            return False
        self.num_private += count
        for _ in range(self.num_private + len(self._uses) - self.num_blocks):
            evicted, _ = self._idle.popitem(last=False)
            del self._uses[evicted]
            if evicted in self._stored:
                del self._stored[evicted]
            else:
                self._removed[evicted] = None
        return True

    def name(self, block_hash: int) -> bool:
        """Make a private block a named one. False when the name is taken: the block stays private."""
        if block_hash in self._uses:
            return False
        self.num_private -= 1
        self._uses[block_hash] = 1
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None
        return True

    def release(self, hashes: Iterable[int], num_private: int) -> None:
        """Stop using blocks; of the named ones, the first given is the first to be evicted."""
        self.num_private -= num_private
        for block_hash in hashes:
            uses = self._uses[block_hash] - 1
            self._uses[block_hash] = uses
            if uses == 0:
                self._idle[block_hash] = None

    def drain(self) -> tuple[list[int], list[int]]:
        """The names that came and those that left since the last drain."""
        changes = list(self._stored), list(self._removed)
        self._stored.clear()
        self._removed.clear()
        return changes

    def check(self, uses: dict[int, int], num_private: int) -> None:
        """Assert that the sequences' own accounts agree: uses of each name, and private blocks in all."""
        assert num_private == self.num_private
        assert uses == {block_hash: count for block_hash, count in self._uses.items() if count}
        assert set(self._idle) == {block_hash for block_hash, count in self._uses.items() if not count}
        assert self.num_private + len(self._uses) <= self.num_blocks
        assert not self._stored.keys() & self._removed.keys()
        assert self._stored.keys() <= self._uses.keys()
        assert not self._removed.keys() & self._uses.keys()
