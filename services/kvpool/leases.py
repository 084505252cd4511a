"""Leases: what is being read, and until when it may not be evicted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.agenda import Agenda
from services.kvpool.namespace import Namespace
from services.kvpool.places import DRAM, SSD, Hold, Places


@dataclass(slots=True, eq=False)
class Lease(Hold):
    """Blocks of a chain from `first` on, as many as there are `offsets`, and the path to them."""

    lease_id: str
    namespace: Namespace
    hashes: Sequence[bytes]
    first: int
    offsets: list[int] = field(default_factory=list[int])
    """As they were told."""
    answered: bool = False
    num_from_ssd: int = 0
    num_from_peer: int = 0


class Leases:
    """`agenda` calls back with a Lease when it is over."""

    def __init__(self, places: Places, agenda: Agenda[object]) -> None:
        self.held: dict[str, Lease] = {}
        self._places = places
        self._agenda = agenda

    def take(self, lease: Lease, until: float) -> None:
        """A lease begins; it may hold nothing yet."""
        self.held[lease.lease_id] = lease
        self._agenda.set(lease, until)

    def cover(self, lease: Lease, end: int) -> None:
        """Hold the blocks up to `end`, which are here."""
        if end:
            lease.pin(lease.namespace.tree.find(lease.hashes[end - 1], end - 1))

    def extend(self, lease: Lease, until: float) -> None:
        """It ends then."""
        self._agenda.set(lease, until)

    def end(self, lease: Lease) -> None:
        """Give up what it holds. Harmless when it is over."""
        if self.held.get(lease.lease_id) is lease:
            del self.held[lease.lease_id]
        self._agenda.discard(lease)
        self._places.end(lease)

    def drop_corrupt(self, lease: Lease, blocks: Sequence[int]) -> tuple[int, int]:
        """Blocks, counted from `first`, whose bytes were wrong in DRAM leave it; a copy on disk may serve, otherwise
        they leave the tree with all that extends them. Returns how many were wrong, and how many left."""
        tree = lease.namespace.tree
        num_wrong = num_left = 0
        for block in sorted(set(blocks)):
            position = lease.first + block
            if not 0 <= block < len(lease.offsets):
                continue
            node = tree.find(lease.hashes[position], position)
            at = position - node.first if node is not None else 0
            if node is None or node.places[DRAM][at] != lease.offsets[block]:
                continue  # gone, or another copy by now
            num_wrong += 1
            num_left += tree.unplace(node, DRAM, at, at + 1) if node.places[SSD][at] >= 0 else tree.cut(node, at)
        return num_wrong, num_left
