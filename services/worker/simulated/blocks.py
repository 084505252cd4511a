"""Paged KV blocks with a prefix cache: which blocks are in use, which are kept, which leaves next.

A block is *private* (unnamed, of one sequence) or *named* by the chained hash of the tokens up to its end. Named blocks
are shared and counted; one that nobody uses stays until its room is needed, the least recently freed first. As in
vLLM, a sequence frees its blocks from the last to the first, so that the tail of a prefix leaves before its head, and
rooms without a name are given out before any kept block is evicted. A second block of the same content stays private.
"""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile


class BlockPool:
    """Counts `num_blocks` blocks. Nothing here knows about tokens or sequences."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_private = 0
        self._names: set[int] = set()
        self._idle: dict[int, None] = {}
        """Names that nobody uses, the first to leave first."""
        self._shared: dict[int, int] = {}
        """How many use a name beside its first user, if any do: contexts are long, and little of them is shared."""
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}

    @property
    def num_used(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_private + len(self._names) - len(self._idle)

    @property
    def num_free(self) -> int:
        """Blocks that can be had, by eviction if need be."""
        return self.num_blocks - self.num_private - len(self._names) + len(self._idle)

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many of the leading `limit` hashes are here without a gap."""
        return len(list(takewhile(self._names.__contains__, islice(hashes, limit))))  # no loop of ours: it may be long

    def num_idle(self, hashes: Iterable[int]) -> int:
        """How many of these present hashes are held by nobody."""
        return sum(map(self._idle.__contains__, hashes))

    def num_sole(self, hashes: Sequence[int]) -> int:
        """How many of these held hashes are held just once."""
        return len(hashes) - sum(map(self._shared.__contains__, hashes))

    def hold(self, hashes: Iterable[int]) -> None:
        """Begin to use named blocks that are here."""
        idle, shared = self._idle, self._shared
        for block_hash in hashes:
            if block_hash in idle:
                del idle[block_hash]
            else:
                shared[block_hash] = shared.get(block_hash, 0) + 1

    def allocate(self, count: int) -> bool:
        """Take `count` private blocks, all or none."""
        if count > self.num_free:
            return False
        self.num_private += count
        excess = self.num_private + len(self._names) - self.num_blocks
        if excess > 0:
            for evicted in list(islice(self._idle, excess)):
                del self._idle[evicted]
                self._names.remove(evicted)
                if evicted in self._stored:
                    del self._stored[evicted]
                else:
                    self._removed[evicted] = None
        return True

    def name(self, block_hash: int) -> bool:
        """Make a private block a named one. False when the name is taken: the block stays private."""
        if block_hash in self._names:
            return False
        self.num_private -= 1
        self._names.add(block_hash)
        if block_hash in self._removed:
            del self._removed[block_hash]
        else:
            self._stored[block_hash] = None
        return True

    def release(self, hashes: Iterable[int], num_private: int) -> None:
        """Stop using blocks; of the named ones, the first given is the first to be evicted."""
        self.num_private -= num_private
        idle, shared = self._idle, self._shared
        for block_hash in hashes:
            if block_hash not in shared:
                idle[block_hash] = None
            elif shared[block_hash] == 1:
                del shared[block_hash]
            else:
                shared[block_hash] -= 1

    def drain(self) -> tuple[list[int], list[int]]:
        """The names that came and those that left since the last drain."""
        changes = list(self._stored), list(self._removed)
        self._stored.clear()
        self._removed.clear()
        return changes

    def check(self, uses: dict[int, int], num_private: int) -> None:
        """Assert that the sequences' own accounts agree: uses of each name, and private blocks in all."""
        assert num_private == self.num_private
        assert self._idle.keys() <= self._names
        assert uses.keys() == self._names - self._idle.keys()
        assert self._shared == {block_hash: count - 1 for block_hash, count in uses.items() if count > 1}
        assert self.num_private + len(self._names) <= self.num_blocks
        assert not self._stored.keys() & self._removed.keys()
        assert self._stored.keys() <= self._names
        assert not self._removed.keys() & self._names
