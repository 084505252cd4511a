"""Namespace: the tree of one namespace, and the blocks that are on their way into it.

A block is `pending` while workers store it, `incoming` while it is copied from disk or a peer, `parked` when it came
before the block that it extends. What comes without a parent, or is here already, gives its slot back. `stirred` are
those who wait for a block that came, or that will not come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from services.kvpool.changes import ChangeLog
from services.kvpool.events import DiskEntry
from services.kvpool.places import DRAM, SSD, Places
from services.kvpool.programs import Programs, extends
from services.kvpool.tree import Chain, Node, Space, Tree

if TYPE_CHECKING:
    from services.kvpool.reservations import Pending
    from services.kvpool.waits import Want


@dataclass(slots=True)
class Run:
    """Blocks that lie in DRAM, follow one another, and are whole."""

    parent: bytes
    first: int
    keys: list[bytes]
    offsets: list[int]
    sums: list[Sequence[int]]
    chain: Chain | None
    """The thread that they were made for."""
    reason: str = ""
    """Why nobody needs them, when they are for no thread."""


class Namespace:
    """See the module."""

    def __init__(self, space: Space, places: Places, changes: ChangeLog, programs: Programs) -> None:
        self.space = space
        self.tree = Tree(space, places, changes)
        self.pending: dict[bytes, Pending] = {}
        self.incoming: dict[bytes, int] = {}
        """With their positions."""
        self.waiting: dict[bytes, list[Want]] = {}
        """By the first block that is missing."""
        self.stirred: dict[Want, None] = {}
        self.strays: dict[bytes, list[DiskEntry]] = {}
        """Blocks on disk whose parents are not here, by parent."""
        self._parked: dict[bytes, list[Run]] = {}
        self._parked_keys: dict[bytes, int] = {}
        self._places = places
        self._programs = programs

    def coming(self, key: bytes) -> bool:
        """The block is not here and may be soon."""
        return key in self.pending or key in self.incoming or key in self._parked_keys

    def follows(self, parent: bytes, position: int) -> bool:
        """A block at `position` behind `parent` would have it before it, now or soon."""
        if not parent:
            return position == 0
        if (block := self.pending.get(parent)) is not None:
            return block.position == position - 1
        known = self.incoming.get(parent, self._parked_keys.get(parent))
        return known == position - 1 if known is not None else self.tree.find(parent, position - 1) is not None

    def parked(self) -> list[int]:
        """Offsets of the blocks that wait for a parent."""
        return [offset for runs in self._parked.values() for run in runs for offset in run.offsets]

    def land(self, run: Run, now: float) -> None:
        """Blocks are readable now, if what they extend is here."""
        runs = [run]
        for each in runs:
            if each.parent and each.parent not in self.tree.index:
                if self.coming(each.parent):
                    self._parked.setdefault(each.parent, []).append(each)
                    self._parked_keys.update(zip(each.keys, count(each.first)))
                else:
                    self._refuse(each)
                continue
            self._settle(each, now)
            self._stir(each.keys)
            for key in each.keys if self._parked else ():
                for child in self._parked.pop(key, ()):
                    self._unpark(child)
                    runs.append(child)
            if self.strays:
                self._gather(each.keys, now)

    def miss(self, keys: Sequence[bytes]) -> None:
        """Blocks that were coming do not come; nor do those that were to follow them."""
        self._stir(keys)
        for key in keys if self._parked else ():
            if key not in self.tree.index and not self.coming(key):
                for child in self._parked.pop(key, ()):
                    self._unpark(child)
                    self._refuse(child)

    def adopt(self, entries: Sequence[DiskEntry], now: float) -> None:
        """Blocks on disk, each before those that extend it; those without a parent here wait as strays."""
        for entry in entries:
            if entry.parent and entry.parent not in self.tree.index:
                self.strays.setdefault(entry.parent, []).append(entry)
                continue
            if not self.follows(entry.parent, entry.position):
                self._places.vacate(SSD, entry.offset, ())
                continue
            node = self.tree.ending_at(entry.parent, entry.position)
            if node.parent is None or node.children or node.users or node.reason:
                node = self.tree.branch(node, entry.key, now)
            self.tree.extend(node, [entry.key], [entry.checksums], SSD, [entry.offset])

    def _gather(self, keys: Sequence[bytes], now: float) -> None:
        """Strays whose parents came."""
        parents = list(keys)
        for parent in parents:
            for entry in self.strays.pop(parent, ()):
                if entry.key in self.tree.index:
                    self._places.vacate(SSD, entry.offset, ())
                else:
                    self.adopt([entry], now)
                    parents.append(entry.key)
        self._stir(parents)

    def _refuse(self, run: Run) -> None:
        for offset in run.offsets:
            self._places.slots[DRAM].free(offset)
        self.miss(run.keys)

    def _unpark(self, run: Run) -> None:
        for key in run.keys:
            self._parked_keys.pop(key, None)

    def _stir(self, keys: Sequence[bytes]) -> None:
        for key in keys if self.waiting else ():
            self.stirred.update(dict.fromkeys(self.waiting.pop(key, ())))

    def _settle(self, run: Run, now: float) -> None:
        known = 0
        while known < len(run.keys) and (node := self.tree.find(run.keys[known], run.first + known)) is not None:
            self._meet(node, run.first + known - node.first, run.offsets[known], run.sums[known])
            known += 1
        if known == len(run.keys):
            return
        parent = self.tree.ending_at(run.keys[known - 1] if known else run.parent, run.first + known)
        chain, reason = run.chain, run.reason
        if chain is not None and (chain.forgotten or not extends(chain, parent)):
            chain, reason = None, chain.forgotten or "superseded"  # the thread has moved on: nobody's
        if chain is not None:
            self._programs.follow(chain, parent)
        if chain is not None:
            same = parent.tips == {chain} and parent.users == {chain.program.program_id: 1}
        else:
            same = not parent.users and not parent.tips and parent.reason == reason
        reason = "" if chain is not None else reason
        node = parent
        if parent.parent is None or parent.children or not same:
            node = self.tree.branch(parent, run.keys[known], now)
            node.reason = reason
        self.tree.extend(node, run.keys[known:], run.sums[known:], DRAM, run.offsets[known:])
        if chain is not None:
            self._programs.follow(chain, node)

    def _meet(self, node: Node, at: int, offset: int, sums: Sequence[int]) -> None:
        """A block came that is here: of use if it was on disk alone. Computed twice, it need not be equal bit by bit,
        so the copy on disk goes."""
        if node.places[DRAM][at] >= 0:
            self._places.slots[DRAM].free(offset)
            return
        self.tree.place(node, at, DRAM, offset)
        self.tree.unplace(node, SSD, at, at + 1)
        node.sums[at] = sums
