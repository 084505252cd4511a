"""What must hold of the pool's core after every event; for tests and for doubts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from services.kvpool.places import DRAM, SSD

if TYPE_CHECKING:
    from services.kvpool.core import Core
    from services.kvpool.tree import Node, Tree


def check(core: Core) -> None:
    """Raise AssertionError naming what does not hold."""
    for namespace in core.namespaces.values():
        nodes = _nodes(namespace.tree)
        assert sum(len(node.keys) for node in nodes) == len(namespace.tree.index), "the index has other blocks"
        for node in nodes:
            _check_node(node)
            _check_users(core, node)
    _check_places(core)
    _check_waits(core)
    core.foresight.check()


def _nodes(tree: Tree) -> list[Node]:
    nodes = [tree.root]
    for node in nodes:
        nodes.extend(node.children.values())
    return nodes


def _check_node(node: Node) -> None:
    tree = node.tree
    assert node.keys or node.parent is None, "a node without blocks"
    assert len(node.keys) == len(node.sums) == len(node.places[DRAM]) == len(node.places[SSD]), "lists differ"
    assert all(tree.index[key] is node for key in node.keys), "a block is indexed elsewhere"
    assert all(max(places) >= 0 for places in zip(*node.places, strict=True)), "a block that lies nowhere"
    for key, child in node.children.items():
        assert child.parent is node, "a child has another parent"
        assert child.first == node.end, "a gap in a chain"
        assert child.keys[0] == key, "a child goes by another block"
        assert node.holds >= child.holds, "a held node below one that is not"
    for tier in (DRAM, SSD):
        assert node.num_held[tier] == len(node.keys) - node.places[tier].count(-1), "blocks do not add up"
        below = sum(bool(child.num_held[tier] or child.num_below[tier]) for child in node.children.values())
        assert node.num_below[tier] == below, "children do not add up"
        leaf = node.num_held[tier] > 0 and not below
        assert (node in tree.leaves[tier]) == leaf, "the leaves are others"


def _check_users(core: Core, node: Node) -> None:
    for chain in node.tips:
        assert chain.node is node, "a chain ends elsewhere"
    if node.parent is not None:
        below = Counter(chain.program.program_id for chain in node.tips)
        for child in node.children.values():
            below.update(child.users)
        assert below == Counter(node.users), "users do not add up"
        assert set(node.users) == set(node.segment.programs), "the segment has other users"
        threads = {chain.thread.thread_id for chain in node.tips}
        threads.update(name for child in node.children.values() for name in child.segment.threads)
        assert threads == set(node.segment.threads), "the segment has other threads"
        for program_id, program in node.segment.programs.items():
            assert core.programs.get(program_id) is program, "a user that is not known"


def _check_places(core: Core) -> None:
    used: tuple[list[int], list[int]] = ([], [])
    for namespace in core.namespaces.values():
        for node in _nodes(namespace.tree):
            for tier in (DRAM, SSD):
                used[tier].extend(offset for offset in node.places[tier] if offset >= 0)
        used[DRAM].extend(block.offset for block in namespace.pending.values())
        used[DRAM].extend(namespace.parked())
        used[SSD].extend(entry.offset for entries in namespace.strays.values() for entry in entries)
    for read in core.disk.reads.values():
        used[DRAM].extend(block.arena_offset for block in read.blocks[read.num_done :])
    for pull in core.peers.pulls.values():
        used[DRAM].extend(pull.offsets[pull.num_done :])
    for write in core.disk.writes.values():
        used[SSD].extend(block.disk_offset for block in write.blocks)
    graves = core.places.graves()
    for tier in (DRAM, SSD):
        slots = core.places.slots[tier]
        used[tier].extend(offset for at, offset in graves if at == tier)
        taken = slots.taken()
        assert len(used[tier]) == len(set(used[tier])), "two blocks in one place"
        assert set(used[tier]) == set(taken), "a place that nobody has is taken, or the other way round"
        assert slots.used_bytes == sum(taken.values()), "bytes do not add up"
        ends = sorted((offset, offset + size) for offset, size in taken.items())
        assert all(end <= start for (_, end), (start, _) in pairwise(ends)), "places overlap"
        assert not ends or ends[-1][1] <= slots.capacity_bytes, "a place outside"


def _check_waits(core: Core) -> None:
    listed = [want for namespace in core.namespaces.values() for wants in namespace.waiting.values() for want in wants]
    assert Counter(listed) == Counter(core.waits.open.values()), "a reader waits for nothing, or twice"
    for want in core.waits.open.values():
        assert core.leases.held.get(want.lease.lease_id) is want.lease, "a reader without a lease"
    for lease in core.leases.held.values():
        for node in lease.nodes:
            assert lease in node.holds, "a lease on a node that does not know it"
