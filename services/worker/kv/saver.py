"""Saves, by a thread of their own: the pool gives room, blocks are copied and their checksums committed.

What is saved is a copy the engine can do without, so nothing waits for it: a full queue drops the newest save, a pool
that does not answer loses those that were asked of it, and nothing is written after a reservation's time, for its room
may be another's then. A request's blocks are needed until its saves were copied or
dropped; `take_released` tells which of the held ones are so far. `flush` drops the saves of requests whose blocks are
taken from them and waits for a copy of them that is under way, which is one piece.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from legato.v1 import kvpool_pb2
from services.common import kv
from services.worker.kv.client import CONTROL_SECONDS, PoolClient
from services.worker.kv.copy import Copies
from services.worker.kv.transfer import Save

_log = logging.getLogger(__name__)

MAX_QUEUED_BLOCKS = 8192
_PIECE_BYTES = 4 * 1024 * 1024
"""Copied without looking whether the blocks are still the request's."""
_LARGEST_SAVE = 256
"""Blocks in one reservation."""
_ASKED_AT_ONCE = 8
"""Requests for which room is asked at the same time."""
_ANSWER_SECONDS = 3 * CONTROL_SECONDS
"""The client's futures end before this, whatever happens."""


@dataclass(slots=True)
class SaveCounts:
    """Since the start."""

    saved_blocks: int = 0
    known_blocks: int = 0
    """The pool had them, or had no room."""
    dropped_blocks: int = 0
    """The queue was full, the pool away, or the blocks were needed."""
    saved_bytes: int = 0
    save_seconds: float = 0.0

    @property
    def num_ended(self) -> int:
        """Blocks, whatever became of them."""
        return self.saved_blocks + self.known_blocks + self.dropped_blocks


@dataclass(slots=True, eq=False)
class _Queued:
    save: Save
    after: object
    ended: bool = False
    """Nobody needs its blocks any more."""
    until: float = 0.0
    """The pool has not given its room to others before this."""


class Saver:
    """Everything but the thread's own methods is the engine's, and waits for nothing but `flush` for a copy."""

    def __init__(
        self,
        copies: Copies,
        client: PoolClient,
        shard: int,
        num_shards: int,
        reservation_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = SaveCounts()
        self._copies, self._client = copies, client
        self._shard, self._num_shards = shard, num_shards
        self._reservation_seconds, self._clock = reservation_seconds, clock
        self._piece = max(1, _PIECE_BYTES // copies.shard_bytes)
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._num_queued_blocks = 0
        self._asked: list[_Queued] = []
        """Those that the thread has taken from the queue."""
        self._copying: _Queued | None = None
        """The one whose blocks are being read."""
        self._open: Counter[str] = Counter()
        """Saves of a request that still need its blocks."""
        self._held: set[str] = set()
        self._released: set[str] = set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, saves: Iterable[Save], after: object) -> None:
        """Offer blocks; those computed `after` that mark are there to be copied."""
        with self._changed:
            for save in saves:
                for part in _parts(save):
                    if self._closed or self._num_queued_blocks + len(part.block_ids) > MAX_QUEUED_BLOCKS:
                        self.counts.dropped_blocks += len(part.block_ids)
                        continue
                    self._queue.append(_Queued(part, after))
                    self._num_queued_blocks += len(part.block_ids)
                    self._open[part.request_id] += 1
            if self._queue and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kv-saver", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def hold(self, request_ids: Iterable[str]) -> None:
        """These requests have finished: tell when their blocks are not needed any more."""
        with self._changed:
            for request_id in request_ids:
                (self._held if request_id in self._open else self._released).add(request_id)

    def take_released(self) -> set[str]:
        """Held requests that are done with, since the last time."""
        with self._changed:
            released, self._released = self._released, set()
            return released

    def give_up(self, request_ids: Collection[str]) -> None:
        """Do not begin to copy these requests' blocks."""
        with self._changed:
            self._drop(request_ids)

    def flush(self, request_ids: Collection[str]) -> None:
        """When this returns nobody reads these requests' blocks."""
        with self._changed:
            self._drop(request_ids)
            self._changed.wait_for(lambda: self._copying is None or self._copying.save.request_id not in request_ids)

    def close(self) -> None:
        """Drop what is queued and stop."""
        with self._changed:
            self._closed = True
            self._drop(set(self._open))
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_ANSWER_SECONDS)

    def _drop(self, request_ids: Collection[str]) -> None:
        """What is not being copied ends now, what is, after its current piece."""
        for queued in [*self._queue, *self._asked]:
            if queued.save.request_id in request_ids and not queued.ended:
                self.counts.dropped_blocks += len(queued.save.block_ids)
                queued.ended = True
                if queued is not self._copying:
                    self._close_one(queued.save.request_id)
        kept = deque(queued for queued in self._queue if not queued.ended)
        self._num_queued_blocks = sum(len(queued.save.block_ids) for queued in kept)
        self._queue = kept

    def _close_one(self, request_id: str) -> None:
        """One save of the request needs its blocks no more."""
        self._open[request_id] -= 1
        if not self._open[request_id]:
            del self._open[request_id]
            if request_id in self._held:
                self._held.remove(request_id)
                self._released.add(request_id)

    # The thread.

    def _run(self) -> None:
        while batch := self._next():
            for queued in batch:
                queued.until = self._clock() + self._reservation_seconds
            answers = [self._ask(queued.save) for queued in batch]
            for queued, answer in zip(batch, answers, strict=True):
                try:
                    self._save(queued, answer.result(_ANSWER_SECONDS))
                except Exception:
                    _log.exception("a save failed")
                    self.counts.dropped_blocks += 0 if queued.ended else len(queued.save.block_ids)
                finally:  # or the request's blocks were held for ever
                    self._finish(queued)

    def _finish(self, queued: _Queued) -> None:
        with self._changed:
            self._asked.remove(queued)
            if not queued.ended:
                queued.ended = True
                self._close_one(queued.save.request_id)

    def _next(self) -> list[_Queued]:
        """Wait for saves; at most one of a request, for a block's parent comes first."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch: dict[str, _Queued] = {}
            later: deque[_Queued] = deque()
            while self._queue and len(batch) < _ASKED_AT_ONCE:
                queued = self._queue.popleft()
                if queued.save.request_id in batch:
                    later.append(queued)
                else:
                    batch[queued.save.request_id] = queued
                    self._num_queued_blocks -= len(queued.save.block_ids)
            self._queue.extendleft(reversed(later))
            self._asked = list(batch.values())
            return list(self._asked)

    def _ask(self, save: Save) -> "Future[kvpool_pb2.BeginStoreResponse | None]":
        request = kvpool_pb2.BeginStoreRequest(
            namespace_id=self._client.namespace_id,
            block_hashes=kv.joined(save.block_hashes),
            parent_hash=save.parent_hash,
            first_block=save.first_block,
            shard=self._shard,
            user=save.user,
        )
        request.duration.FromNanoseconds(round(self._reservation_seconds * 1e9))
        return self._client.begin_store(request)

    def _save(self, queued: _Queued, answer: kvpool_pb2.BeginStoreResponse | None) -> None:
        save = queued.save
        if answer is None:
            self.counts.dropped_blocks += 0 if queued.ended else len(save.block_ids)
            return
        given = [i for i, offset in enumerate(answer.offsets) if offset != kv.NO_ROOM]
        self.counts.known_blocks += len(save.block_ids) - len(given)
        if not given:
            return
        arena = self._client.arena(answer.arena_id)
        shard_start = self._shard * self._copies.shard_bytes
        offsets = [answer.offsets[i] + shard_start for i in given]
        block_ids = [save.block_ids[i] for i in given]
        begin = time.perf_counter()
        checksums = None if arena is None else self._copy(queued, arena, offsets, block_ids)
        if checksums is None:
            self.counts.dropped_blocks += 0 if queued.ended else len(given)
            self._client.abort(answer.reservation_id)
            return
        copy_seconds = time.perf_counter() - begin
        self._client.commit(answer.reservation_id, checksums, copy_seconds)
        self.counts.saved_blocks += len(given)
        self.counts.saved_bytes += len(given) * self._copies.shard_bytes
        self.counts.save_seconds += copy_seconds

    def _copy(
        self, queued: _Queued, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int]
    ) -> list[int] | None:
        """The checksums; None when the blocks were taken away meanwhile, or the reservation may have lapsed."""
        checksums: list[int] = []
        for start in range(0, len(offsets), self._piece):
            with self._changed:
                if queued.ended or self._clock() >= queued.until:
                    return None
                self._copying = queued
            end = start + self._piece
            try:
                checksums += self._copies.save(arena, offsets[start:end], block_ids[start:end], queued.after)
            finally:
                with self._changed:
                    self._copying = None
                    if queued.ended:
                        self._close_one(queued.save.request_id)
                    self._changed.notify_all()
        return None if queued.ended else checksums


def _parts(save: Save) -> list[Save]:
    """The same in reservations of bounded size."""
    parts: list[Save] = []
    for start in range(0, len(save.block_ids), _LARGEST_SAVE):
        end = start + _LARGEST_SAVE
        parts.append(
            replace(
                save,
                parent_hash=save.block_hashes[start - 1] if start else save.parent_hash,
                first_block=save.first_block + start,
                block_hashes=save.block_hashes[start:end],
                block_ids=save.block_ids[start:end],
            )
        )
    return parts
