"""CacheNotes: why a call finds in its worker's cache what it finds there, for whoever asks later.

Remembered is, per program, what its last calls left behind: where, and the marks of their prompts (prefixes.py), so
that what a prompt shares with them is known to a sixteenth. What workers evict is watched at the deepest mark of each:
blocks go from the tail, so that one goes first. It is taken to make room for the call that came to the worker last.

Bounded: the programs not seen longest are forgotten, with what was watched for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from operator import ne
from typing import TYPE_CHECKING, NamedTuple

from services.common.cache_note import CacheNote
from services.scheduler.prefixes import depth

if TYPE_CHECKING:
    from services.common.cache_note import Cause
    from services.scheduler.cache_index import CacheIndex
    from services.scheduler.prefixes import Marks
    from services.scheduler.records import Call, Worker

_PROGRAMS = 2048
_PROMPTS = 8
"""Of one program, none of them the beginning of another."""
_WATCHED = 4096
"""Blocks of one worker."""


class _Cache:
    """Of one worker, from when it joins until it leaves."""

    __slots__ = ("newest", "watched")

    def __init__(self) -> None:
        self.newest = ""
        """The program whose call came last."""
        self.watched: OrderedDict[int, str | None] = OrderedDict()
        """Blocks, with the program for which they were evicted; None: they were not, as far as it is known."""

    def watch(self, block: int) -> None:
        self.watched[block] = None
        self.watched.move_to_end(block)
        if len(self.watched) > _WATCHED:
            self.watched.popitem(last=False)


class _Left(NamedTuple):
    """What a call left behind."""

    marks: Marks
    worker_id: str
    cache: _Cache


class CacheNotes:
    """Told what the fleet is told, and which calls ended."""

    def __init__(self, index: CacheIndex) -> None:
        self._index = index
        self._caches: dict[str, _Cache] = {}
        self._programs: OrderedDict[str, list[_Left]] = OrderedDict()

    def join(self, worker_id: str) -> None:
        """A worker came; what one of that id had is gone."""
        self._caches[worker_id] = _Cache()

    def leave(self, worker_id: str) -> None:
        """A worker went."""
        self._caches.pop(worker_id, None)

    def removed(self, worker_id: str, blocks: Sequence[int], reset: bool) -> None:
        """A worker's cache has these no more, or (reset) nothing of what it had."""
        if (cache := self._caches.get(worker_id)) is None:
            return
        for block in list(cache.watched) if reset else cache.watched.keys() & blocks:
            cache.watched[block] = cache.newest

    def ended(self, call: Call, completed: bool) -> None:
        """A call ended; the prompt of a completed one is in its worker's cache."""
        cache, marks = self._caches.get(call.worker_id), call.marks
        if cache is None or not marks or not completed:
            return
        program_id = call.program.program_id
        earlier = self._programs.pop(program_id, [])
        kept = [left for left in earlier if not _begins(left.marks, marks)]
        self._programs[program_id] = [*kept[1 - _PROMPTS :], _Left(marks, call.worker_id, cache)]
        cache.watch(marks[-1])
        if len(self._programs) > _PROGRAMS:
            self._programs.popitem(last=False)

    def placed(self, call: Call, worker: Worker) -> CacheNote:
        """Of a call that was entered in the worker's ledger just now."""
        expected = call.prompt_tokens - call.uncached_tokens
        lost = self._lost(call, worker, expected)
        if (cache := self._caches.get(worker.worker_id)) is not None:
            cache.newest = call.program.program_id
        return CacheNote(expected, *lost, call.paused_seconds)

    def _lost(self, call: Call, worker: Worker, expected: int) -> tuple[int, Cause, str, str]:
        nothing: tuple[int, Cause, str, str] = (0, "", "", "")
        best, count = None, 0
        for left in reversed(self._programs.get(call.program.program_id, ())):
            if left.marks[count : count + 1] == call.marks[count : count + 1] != ():
                best, count = left, _common(left.marks, call.marks)
        block_size = worker.description.block_size
        had = depth(count) * block_size
        if best is None or had <= expected:
            return nothing
        if self._caches.get(best.worker_id) is not best.cache:
            return had - expected, "worker_lost", best.worker_id, ""
        held = depth(self._held(best, count)) * block_size
        moved = 0 if worker.worker_id == best.worker_id else max(0, held - expected)
        by_program = best.cache.watched.get(best.marks[-1])
        # Not held and never seen to be evicted: the worker has only not told yet that it has them.
        evicted = 0 if by_program is None else max(0, had - max(held, expected))
        if not moved and not evicted:
            return nothing
        if moved >= evicted:
            return moved + evicted, "moved", best.worker_id, ""
        return moved + evicted, "evicted", best.worker_id, by_program or ""

    def _held(self, left: _Left, count: int) -> int:
        """Of so many marks, those that its worker has still; by the same property as in cache_index.py."""
        holds, worker_id, marks = self._index.holds, left.worker_id, left.marks
        return bisect_left(range(count), True, key=lambda i: not holds(worker_id, marks[i]))


def _begins(first: Marks, other: Marks) -> bool:
    return len(first) <= len(other) and first[-1] == other[len(first) - 1]


def _common(ours: Marks, theirs: Marks) -> int:
    """Leading marks that are equal: they are hashes of all that went before."""
    end = min(len(ours), len(theirs))
    if end and ours[end - 1] == theirs[end - 1]:
        return end
    return bisect_left(range(end), True, key=lambda i: ne(ours[i], theirs[i]))
