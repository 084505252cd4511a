"""Tree: the blocks of one namespace, as runs of blocks that follow one another in a chain and have the same users.

A block is in the tree while it lies in some tier, and then the block before it is too: the tree is closed under
prefixes, each tier alone need not be. A chained hash names all that comes before it, so the longest prefix is found by
bisection. Runs are cut where users part or a branch begins. What leaves the tree takes with it what extends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from services.kvpool.changes import ChangeLog, Where, short
from services.kvpool.places import DRAM, SSD, Hold, Places
from services.kvpool.segment import Program, Segment, Thread


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace, as far as the pool must know it."""

    namespace_id: str
    num_shards: int
    shard_bytes: int
    block_tokens: int

    @property
    def block_bytes(self) -> int:
        return self.num_shards * self.shard_bytes


@dataclass(slots=True, eq=False)
class Chain:
    """The newest chain of one thread of a program: from the root to the end of `node`."""

    program: Program
    tree: Tree
    node: Node
    thread: Thread
    forgotten: str = ""
    """Why the thread is not known any more."""


def _tiers() -> list[int]:
    return [0, 0]


def _places() -> tuple[list[int], list[int]]:
    return ([], [])


@dataclass(slots=True, eq=False)
class Node:
    """A run. The lists run in parallel, one item for each block."""

    tree: Tree
    parent: Node | None
    """None: this is the root, which has no blocks."""
    first: int
    segment: Segment
    keys: list[bytes] = field(default_factory=list[bytes])
    sums: list[Sequence[int]] = field(default_factory=list[Sequence[int]])
    places: tuple[list[int], list[int]] = field(default_factory=_places)
    """Offsets by tier, -1: not there."""
    num_held: list[int] = field(default_factory=_tiers)
    """Blocks by tier."""
    num_below: list[int] = field(default_factory=_tiers)
    """Children by tier with blocks there, or with descendants that have."""
    children: dict[bytes, Node] = field(default_factory=dict[bytes, "Node"])
    """By their first block."""
    holds: set[Hold] = field(default_factory=set[Hold])
    """Of a held node all nodes above are held as well."""
    tips: set[Chain] = field(default_factory=set[Chain])
    """Newest chains that end where the node ends."""
    users: dict[str, int] = field(default_factory=dict[str, int])
    """Newest chains through the node, by program."""
    owner: str = ""
    """The first program that used it."""
    shared: bool = False
    """A second program used it, ever."""
    reason: str = ""
    """Why nobody needs it any more; empty: someone may."""
    floors: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Segment.floor by tier."""

    @property
    def end(self) -> int:
        return self.first + len(self.keys)


class Tree:
    """The index maps each block to its node. Offsets that blocks leave go back to `places`."""

    def __init__(self, space: Space, places: Places, changes: ChangeLog) -> None:
        self.space = space
        self.root = Node(self, None, 0, Segment(0, 0, 0, 0, 0.0, 0.0))
        self.index: dict[bytes, Node] = {}
        self.keys: dict[int, bytes] = {}
        """By their low 64 bits."""
        self.leaves: tuple[dict[Node, None], dict[Node, None]] = ({}, {})
        """By tier, the nodes with blocks there below which there are none."""
        self.num_blocks = [0, 0]
        self._places = places
        self._changes = changes

    def match(self, hashes: Sequence[bytes]) -> int:
        """Leading blocks that are here, in any tier."""
        low, high = 0, len(hashes)
        if high and hashes[-1] in self.index:
            low = high
        while low < high:
            middle = (low + high) // 2
            if hashes[middle] in self.index:
                low = middle + 1
            else:
                high = middle
        return low if low and self.find(hashes[low - 1], low - 1) else 0

    def find(self, key: bytes, position: int) -> Node | None:
        """The node of a block, if it is here at that position of its chain."""
        node = self.index.get(key)
        if node is None or not node.first <= position < node.end or node.keys[position - node.first] != key:
            return None
        return node

    def path(self, tip: Node, start: int) -> list[Node]:
        """The nodes down to `tip` that have blocks from `start` on."""
        nodes: list[Node] = []
        node: Node | None = tip
        while node is not None and node.end > start:
            nodes.append(node)
            node = node.parent
        nodes.reverse()
        return nodes

    def dram_end(self, tip: Node, start: int, end: int) -> int:
        """End of the stretch in DRAM from `start`, on the way to `tip`, at most `end`."""
        for node in self.path(tip, start):
            if node.num_held[DRAM] < len(node.keys):
                try:
                    return min(end, node.first + node.places[DRAM].index(-1, max(0, start - node.first)))
                except ValueError:
                    pass
        return max(start, end)

    def read(self, tip: Node, start: int, end: int) -> tuple[list[int], list[int]]:
        """Offsets in DRAM and checksums of a stretch that is there, on the way to `tip`."""
        offsets: list[int] = []
        sums: list[int] = []
        for node in self.path(tip, start):
            low, high = max(0, start - node.first), end - node.first
            offsets += node.places[DRAM][low:high]
            sums += chain.from_iterable(node.sums[low:high])
        return offsets, sums

    def chain_to(self, key: bytes) -> list[bytes]:
        """The whole chain that ends in a block which is here."""
        node: Node | None = self.index[key]
        parts = [node.keys[: node.keys.index(key) + 1]]
        while (node := node.parent) is not None:
            parts.append(node.keys)
        return list(chain.from_iterable(reversed(parts)))

    def ending_at(self, key: bytes, end: int) -> Node:
        """The node that ends with a block which is here, at `end` - 1; cuts a node if need be. For 0 the root."""
        if not end:
            return self.root
        node = self.index[key]
        if node.end > end:
            self.split(node, end - node.first)
        return node

    def split(self, node: Node, count: int) -> Node:
        """Leave the first `count` blocks to the node and move the others to a new one below it."""
        segment = node.segment
        copy = replace(segment, programs=dict(segment.programs), threads=dict(segment.threads))
        lower = Node(self, node, node.first + count, copy, node.keys[count:], node.sums[count:])
        lower.places = (node.places[DRAM][count:], node.places[SSD][count:])
        lower.num_held = [len(places) - places.count(-1) for places in lower.places]
        lower.num_below, node.num_below = node.num_below, [0, 0]
        lower.children, node.children = node.children, {lower.keys[0]: lower}
        lower.tips, node.tips = node.tips, set()
        lower.users, lower.owner, lower.shared = dict(node.users), node.owner, node.shared
        lower.reason, lower.floors, lower.holds = node.reason, list(node.floors), set(node.holds)
        for hold in node.holds:
            hold.nodes.append(lower)
        for child in lower.children.values():
            child.parent = lower
        for newest in lower.tips:
            newest.node = lower
        del node.keys[count:], node.sums[count:], node.places[DRAM][count:], node.places[SSD][count:]
        self.index.update(dict.fromkeys(lower.keys, lower))
        for tier in (DRAM, SSD):
            node.num_held[tier] -= lower.num_held[tier]
            node.num_below[tier] = int(bool(lower.num_held[tier] or lower.num_below[tier]))
            self._enlist(lower, tier)
            self._enlist(node, tier)
        return lower

    def branch(self, parent: Node, first_key: bytes, now: float) -> Node:
        """A new node, still without blocks, at the end of `parent`; `extend` must follow."""
        node = Node(self, parent, parent.end, Segment(0, 0, 0, 0, now, now))
        parent.children[first_key] = node
        return node

    def extend(
        self, node: Node, keys: Sequence[bytes], sums: Sequence[Sequence[int]], tier: int, at: list[int]
    ) -> None:
        """Append blocks that lie in one tier, at the offsets `at`, to a node without children."""
        shorts = [short(key) for key in keys]
        node.keys += keys
        node.sums += sums
        node.places[tier].extend(at)
        node.places[1 - tier].extend([-1] * len(keys))
        self.index.update(dict.fromkeys(keys, node))
        self.keys.update(zip(shorts, keys, strict=True))
        self._count(node, tier, len(keys))
        self._changes.record(self.space.namespace_id, Where(tier), shorts)

    def place(self, node: Node, at: int, tier: int, offset: int) -> None:
        """A block of the node is in the tier now."""
        node.places[tier][at] = offset
        self._count(node, tier, 1)
        if tier == DRAM:
            self._changes.record(self.space.namespace_id, Where.DRAM, (short(node.keys[at]),))

    def unplace(self, node: Node, tier: int, start: int, end: int) -> int:
        """Blocks start to end of the node leave the tier; those that lie nowhere then must be `cut`. Returns how many
        were there."""
        places = node.places[tier]
        holds = tuple(node.holds)
        here = [at for at in range(start, end) if places[at] >= 0]
        for at in here:
            self._places.vacate(tier, places[at], holds)
            places[at] = -1
        if here:
            self._count(node, tier, -len(here))
            if tier == DRAM and (moved := [short(node.keys[at]) for at in here if node.places[SSD][at] >= 0]):
                self._changes.record(self.space.namespace_id, Where.SSD, moved)
        return len(here)

    def cut(self, node: Node, at: int) -> int:
        """The node's blocks from `at` on leave the tree, and all that extends them. Returns how many."""
        doomed = [node]
        for upper in doomed:
            doomed.extend(upper.children.values())
        return sum(self._truncate(lower, 0) for lower in reversed(doomed[1:])) + self._truncate(node, at)

    def _truncate(self, node: Node, at: int) -> int:
        """Drop the last blocks of a node without children, and the node when it has no other."""
        for tier in (SSD, DRAM):
            self.unplace(node, tier, at, len(node.keys))
        gone = node.keys[at:]
        shorts = [short(key) for key in gone]
        for key, low in zip(gone, shorts, strict=True):
            del self.index[key]
            self.keys.pop(low, None)
        for items in (node.keys, node.sums, *node.places):
            del items[at:]
        if gone:
            self._changes.record(self.space.namespace_id, Where.GONE, shorts)
        if not node.keys and node.parent is not None:
            del node.parent.children[gone[0]]
            for newest in node.tips:
                newest.node = node.parent
            node.parent.tips |= node.tips
        return len(gone)

    def _count(self, node: Node, tier: int, delta: int) -> None:
        """Blocks came to the tier or left it: keep counts and leaves right."""
        self.num_blocks[tier] += delta
        before = node.num_held[tier] or node.num_below[tier]
        node.num_held[tier] += delta
        while True:
            self._enlist(node, tier)
            after = node.num_held[tier] or node.num_below[tier]
            if bool(before) == bool(after) or node.parent is None:
                return
            node = node.parent
            before = node.num_held[tier] or node.num_below[tier]
            node.num_below[tier] += 1 if after else -1

    def _enlist(self, node: Node, tier: int) -> None:
        if node.num_held[tier] and not node.num_below[tier]:
            self.leaves[tier][node] = None
        else:
            self.leaves[tier].pop(node, None)
