"""What changed in a pool, for those who follow it: a log with revisions, of bounded length.

A follower that asks with a revision that is not remembered is told to begin anew.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import IntEnum

from services.kvpool.actions import Changes, ReplicaUpdate


def short(key: bytes) -> int:
    """A hash as it travels: the low 64 bits (as in services/common/block_hash.py)."""
    return int.from_bytes(key[-8:], "big")


class Where(IntEnum):
    """What can be said of a block."""

    DRAM = 0
    SSD = 1
    GONE = 2


class ChangeLog:
    """`revision` grows by one with each change of some blocks."""

    def __init__(self, max_changes: int) -> None:
        self.revision = 0
        self._max_changes = max_changes
        self._log: deque[tuple[str, Where, Sequence[int]]] = deque()
        self._num_changes = 0

    def record(self, namespace_id: str, where: Where, blocks: Sequence[int]) -> None:
        """Blocks came there, or went."""
        self.revision += 1
        self._log.append((namespace_id, where, blocks))
        self._num_changes += len(blocks)
        while self._num_changes > self._max_changes:
            self._num_changes -= len(self._log.popleft()[2])

    def since(self, revision: int) -> Changes | None:
        """What changed after `revision`; None when that is forgotten, or never was."""
        missed = self.revision - revision
        if revision < 1 or not 0 <= missed <= len(self._log):
            return None
        newest: dict[str, dict[int, Where]] = {}
        for index in range(len(self._log) - missed, len(self._log)):
            namespace_id, where, blocks = self._log[index]
            newest.setdefault(namespace_id, {}).update(dict.fromkeys(blocks, where))
        return Changes(self.revision, False, [_update(name, blocks.items()) for name, blocks in newest.items()])


def _update(namespace_id: str, blocks: Iterable[tuple[int, Where]]) -> ReplicaUpdate:
    lists: tuple[list[int], list[int], list[int]] = ([], [], [])
    for block, where in blocks:
        lists[where].append(block)
    return ReplicaUpdate(namespace_id, *lists)
