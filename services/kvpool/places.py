"""Places: the slots of both tiers, and who still reads or writes them.

A Hold (a lease, a transfer) keeps places as they are for as long as it lasts. What leaves the index under a hold, as
a block that turned out to be corrupt does, keeps its slot until the last of its holds ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.kvpool.allocator import Slots

if TYPE_CHECKING:
    from services.kvpool.tree import Node

DRAM, SSD = 0, 1
"""Tiers, as indices."""


@dataclass(slots=True, eq=False)
class _Grave:
    """A slot that nobody finds any more and that is still in use."""

    tier: int
    offset: int
    num_holds: int


@dataclass(slots=True, eq=False)
class Hold:
    """Keeps nodes, and all nodes above them, from being evicted."""

    nodes: list[Node] = field(default_factory=list["Node"], init=False)
    graves: list[_Grave] = field(default_factory=list[_Grave], init=False)

    def pin(self, node: Node | None) -> None:
        """Hold the node and those above it."""
        while node is not None and self not in node.holds:
            node.holds.add(self)
            self.nodes.append(node)
            node = node.parent


class Places:
    """`forgotten` gathers places of the disk that became void, until someone tells the disk."""

    def __init__(self, dram: Slots, ssd: Slots) -> None:
        self.slots = (dram, ssd)
        self.forgotten: list[int] = []
        self._graves: set[_Grave] = set()

    def vacate(self, tier: int, offset: int, holds: Iterable[Hold]) -> None:
        """A block left its slot, which is free once all of `holds` have ended."""
        grave = _Grave(tier, offset, 0)
        for hold in holds:
            hold.graves.append(grave)
            grave.num_holds += 1
        if tier == SSD:
            self.forgotten.append(offset)
        if grave.num_holds:
            self._graves.add(grave)
        else:
            self.slots[tier].free(offset)

    def end(self, hold: Hold) -> None:
        """The hold ends. Harmless when it already has."""
        for node in hold.nodes:
            node.holds.discard(hold)
        hold.nodes.clear()
        for grave in hold.graves:
            grave.num_holds -= 1
            if not grave.num_holds:
                self._graves.discard(grave)
                self.slots[grave.tier].free(grave.offset)
        hold.graves.clear()

    def graves(self) -> list[tuple[int, int]]:
        """Tier and offset of the slots that nobody finds any more and that are still in use."""
        return [(grave.tier, grave.offset) for grave in self._graves]
