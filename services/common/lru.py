"""What was used last, within a bound of bytes."""

import hashlib
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

_ENTRY_BYTES = 250  # of key, value object and table


def digest(content: bytes) -> bytes:
    """A key for content: equal exactly when the content is, for all practical purposes."""
    return hashlib.blake2b(content, digest_size=16).digest()


class ByteLRU(Generic[V]):
    """Values by key; the ones not used longest leave when there is no more room. Safe to use from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size_bytes = 0

    def get(self, key: bytes) -> V | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: bytes, value: V, value_bytes: int) -> None:
        """Keep the value; one that is larger than the whole limit is not kept."""
        cost = value_bytes + _ENTRY_BYTES
        if cost > self._limit_bytes:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self.size_bytes += cost - (old[1] if old else 0)
            self._entries[key] = (value, cost)
            while self.size_bytes > self._limit_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self.size_bytes -= freed
