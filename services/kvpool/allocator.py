"""Slots: places for blocks in one tier.

The tier is divided into slabs, each cut into slots of one size; a slab goes back to the free extents when its last
slot does, and may then serve another size. Taking and freeing a slot are O(1) but for slabs that come and go. Nothing
is ever moved. Offsets are bytes from the start of the tier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_NUM_SLABS = 64
"""About so many slabs when the tier is full: the fewer, the longer two sizes hold what the other needs."""


@dataclass(slots=True, eq=False)
class _Slab:
    start: int
    slot_bytes: int
    num_slots: int
    free: list[int] = field(default_factory=list[int])
    """Offsets that were taken and came back."""
    num_touched: int = 0
    """Slots from the start that were taken at least once: those behind them are free too."""

    def has_room(self) -> bool:
        return bool(self.free) or self.num_touched < self.num_slots

    def num_free(self) -> int:
        return len(self.free) + self.num_slots - self.num_touched

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        self.num_touched += 1
        return self.start + (self.num_touched - 1) * self.slot_bytes


class Slots:
    """`used_bytes` counts the slots taken, with what alignment adds to them."""

    def __init__(self, capacity_bytes: int, align_bytes: int = 1) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._align_bytes = align_bytes
        self._extents: list[tuple[int, int]] = [(0, capacity_bytes)] if capacity_bytes else []  # (start, bytes), sorted
        self._taken: dict[int, _Slab] = {}
        self._roomy: dict[int, dict[_Slab, None]] = {}  # slot size -> slabs with a free slot
        self._slabs: dict[_Slab, None] = {}

    def __contains__(self, offset: int) -> bool:
        """A slot that begins there is taken."""
        return offset in self._taken

    def slot_bytes(self, num_bytes: int) -> int:
        """Size of the slot that a block of `num_bytes` takes."""
        return -(-num_bytes // self._align_bytes) * self._align_bytes

    def num_free(self, num_bytes: int) -> int:
        """How many blocks of that size could be taken now."""
        size = self.slot_bytes(num_bytes)
        in_slabs = sum(slab.num_free() for slab in self._roomy.get(size, ()))
        return in_slabs + sum(length // size for _, length in self._extents)

    def take(self, num_bytes: int, count: int) -> list[int]:
        """Offsets of `count` slots, or of as many as there are."""
        size = self.slot_bytes(num_bytes)
        offsets: list[int] = []
        roomy = self._roomy.setdefault(size, {})
        while len(offsets) < count:
            slab = next(iter(roomy), None) or self._open(size)
            if slab is None:
                break
            while len(offsets) < count and slab.has_room():
                offset = slab.take()
                self._taken[offset] = slab
                offsets.append(offset)
            if not slab.has_room():
                roomy.pop(slab, None)
        self.used_bytes += size * len(offsets)
        return offsets

    def free(self, offset: int) -> None:
        """Give a slot back. Raises KeyError when it is not taken."""
        slab = self._taken.pop(offset)
        slab.free.append(offset)
        self.used_bytes -= slab.slot_bytes
        if slab.num_free() == slab.num_slots:
            self._close(slab)
        else:
            self._roomy[slab.slot_bytes][slab] = None

    def restore(self, blocks: Sequence[tuple[int, int]]) -> list[bool]:
        """Take given slots, (offset, bytes of the block) each, in an allocator from which nothing was taken yet. False
        for those that overlap others or lie outside."""
        order = sorted(range(len(blocks)), key=lambda index: blocks[index])
        accepted = [False] * len(blocks)
        run: list[int] = []
        size = end = 0
        for index in order:
            offset, num_bytes = blocks[index]
            if num_bytes <= 0 or offset < end or offset + self.slot_bytes(num_bytes) > self.capacity_bytes:
                continue
            if run and (self.slot_bytes(num_bytes) != size or (offset - run[0]) % size):
                self._adopt(run, size)
                run = []
            size, end = self.slot_bytes(num_bytes), offset + self.slot_bytes(num_bytes)
            run.append(offset)
            accepted[index] = True
        if run:
            self._adopt(run, size)
        return accepted

    def slabs(self) -> list[tuple[int, int, int, int]]:
        """(start, bytes, slot size, slots taken) of each slab."""
        return [
            (slab.start, slab.num_slots * slab.slot_bytes, slab.slot_bytes, slab.num_slots - slab.num_free())
            for slab in self._slabs
        ]

    def taken(self) -> dict[int, int]:
        """Slot size of each offset taken."""
        return {offset: slab.slot_bytes for offset, slab in self._taken.items()}

    def _open(self, size: int) -> _Slab | None:
        """A new slab from the free extents: the first that is long enough, else the longest."""
        wanted = max(size, self.capacity_bytes // _NUM_SLABS // size * size)
        place = next((i for i, (_, length) in enumerate(self._extents) if length >= wanted), None)
        if place is None:
            if not self._extents:
                return None
            place = max(range(len(self._extents)), key=lambda i: self._extents[i][1])
            wanted = self._extents[place][1] // size * size
            if not wanted:
                return None
        start, length = self._extents[place]
        self._extents[place : place + 1] = [(start + wanted, length - wanted)] if length > wanted else []
        return self._enlist(_Slab(start, size, wanted // size))

    def _enlist(self, slab: _Slab) -> _Slab:
        self._slabs[slab] = None
        self._roomy.setdefault(slab.slot_bytes, {})[slab] = None
        return slab

    def _close(self, slab: _Slab) -> None:
        self._roomy[slab.slot_bytes].pop(slab, None)
        del self._slabs[slab]
        self._extents.append((slab.start, slab.num_slots * slab.slot_bytes))
        self._extents.sort()
        joined: list[tuple[int, int]] = []
        for start, length in self._extents:
            if joined and joined[-1][0] + joined[-1][1] == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        self._extents = joined

    def _adopt(self, offsets: list[int], size: int) -> None:
        """A slab from the first to the last of the offsets, all of them taken; the slots between are free. Long
        stretches in which nothing is taken are left out."""
        run = [offsets[0]]
        for offset in offsets[1:]:
            if offset - run[-1] > self.capacity_bytes // _NUM_SLABS:
                self._adopt_run(run, size)
                run = []
            run.append(offset)
        self._adopt_run(run, size)

    def _adopt_run(self, run: list[int], size: int) -> None:
        start, end = run[0], run[-1] + size
        slab = self._enlist(_Slab(start, size, (end - start) // size))
        slab.num_touched = slab.num_slots
        taken = set(run)
        slab.free = [offset for offset in range(start, end, size) if offset not in taken]
        self._taken.update(dict.fromkeys(run, slab))
        self.used_bytes += size * len(run)
        if not slab.free:
            del self._roomy[size][slab]
        at = next(i for i, (first, length) in enumerate(self._extents) if first <= start < first + length)
        first, length = self._extents[at]
        pieces = [(first, start - first), (end, first + length - end)]
        self._extents[at : at + 1] = [piece for piece in pieces if piece[1] > 0]
