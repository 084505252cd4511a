"""Loads, by a thread of their own: arena to cache, each block checked against its checksum.

A load ends in one `Loaded`, whatever happens. Blocks after one that is wrong are not loaded: the engine computes from
there on.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

from services.common import kv
from services.worker.kv.copy import Copies
from services.worker.kv.transfer import Load, Loaded

_log = logging.getLogger(__name__)

FindArena = Callable[[str], kv.Arena | None]
"""By its id; None: it is gone."""


class Loader:
    """`submit` and `take` are the engine's; they never wait."""

    def __init__(self, copies: Copies, find_arena: FindArena, shard: int, num_shards: int) -> None:
        self._copies = copies
        self._find_arena = find_arena
        self._shard, self._num_shards = shard, num_shards
        self._loads: queue.SimpleQueue[Load | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Load, Loaded]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, load: Load) -> None:
        """Begin. The engine has as many loads as requests, which bounds the queue."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kv-loader", daemon=True)
            self._thread.start()
        self._loads.put(load)

    def take(self) -> list[tuple[Load, Loaded]]:
        """What ended since the last time."""
        return [self._ended.get() for _ in range(self._ended.qsize())]

    def close(self) -> None:
        """Finish the current load and stop."""
        if self._thread is not None:
            self._loads.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (load := self._loads.get()) is not None:
            try:
                loaded = self._load(load)
            except Exception:  # the request would wait for ever
                _log.exception("a load failed")
                loaded = Loaded()
            self._ended.put((load, loaded))

    def _load(self, load: Load) -> Loaded:
        arena = self._find_arena(load.arena_id)
        if arena is None:
            return Loaded()
        shard_bytes = self._copies.shard_bytes
        offsets = [offset + self._shard * shard_bytes for offset in load.offsets]
        begin = time.perf_counter()
        checksums = load.checksums[self._shard :: self._num_shards]
        num_good = self._copies.load(arena, offsets, load.block_ids, checksums)
        return Loaded(
            num_bytes=num_good * shard_bytes,
            copy_seconds=time.perf_counter() - begin,
            num_good=num_good,
            corrupt=num_good < len(offsets),
        )
