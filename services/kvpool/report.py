"""What can be said of the core as a whole: counts, and all blocks for someone who begins to follow it."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from services.kvpool.actions import Changes, ReplicaUpdate, Status, TierStatus
from services.kvpool.changes import short
from services.kvpool.events import Tier
from services.kvpool.places import DRAM, SSD

if TYPE_CHECKING:
    from services.kvpool.core import Core

_TOP = 10


def everything(core: Core) -> Changes:
    """All blocks, as changes after nothing."""
    updates: list[ReplicaUpdate] = []
    for namespace_id, namespace in core.namespaces.items():
        dram: list[int] = []
        ssd: list[int] = []
        nodes = [namespace.tree.root]
        for node in nodes:
            for key, place in zip(node.keys, node.places[DRAM], strict=True):
                (dram if place >= 0 else ssd).append(short(key))
            nodes.extend(node.children.values())
        updates.append(ReplicaUpdate(namespace_id, dram, ssd, ()))
    return Changes(core.changes.revision, True, updates)


def status(core: Core) -> Status:
    """Counts; walks all nodes."""
    counts = core.counts
    tiers: list[TierStatus] = []
    for number, tier in ((DRAM, Tier.DRAM), (SSD, Tier.SSD)):
        slots = core.places.slots[number]
        num_blocks = sum(namespace.tree.num_blocks[number] for namespace in core.namespaces.values())
        traffic = (counts.num_hits[number], counts.read_bytes[number], counts.written_bytes[number])
        tiers.append(TierStatus(tier, slots.used_bytes, slots.capacity_bytes, num_blocks, *traffic))
    sizes: Counter[str] = Counter()
    for namespace in core.namespaces.values():
        nodes = [namespace.tree.root]
        for node in nodes:
            for program_id in node.users:
                sizes[program_id] += sum(node.num_held) * namespace.space.block_bytes
            nodes.extend(node.children.values())
    return Status(
        tiers=tiers,
        num_requested_blocks=counts.num_requested,
        num_missed_blocks=counts.num_missed,
        num_pulled_blocks=counts.num_pulled,
        num_corrupt_blocks=counts.num_corrupt,
        evictions={reason: number for reason, number in core.eviction.reasons.items() if number},
        top_programs=heapq.nlargest(_TOP, sizes.items(), key=lambda item: item[1]),
        num_leases=len(core.leases.held),
        num_reservations=len(core.reservations.open),
    )
