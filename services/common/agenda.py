"""Agenda: what is due when. One entry per key; setting a key again moves it. Memory is bounded by the live keys."""

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


class Agenda(Generic[K]):
    """Keys with a time each."""

    def __init__(self) -> None:
        self._whens: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._whens)

    def __contains__(self, key: K) -> bool:
        return key in self._whens

    def __iter__(self) -> Iterator[K]:
        return iter(self._whens)

    def set(self, key: K, when: float) -> None:
        """Put `key` down for `when`."""
        self._whens[key] = when
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, key))
        if len(self._heap) > 2 * len(self._whens) + 64:
            self._heap = [entry for entry in self._heap if self._whens.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        """Strike `key`, if it is there."""
        self._whens.pop(key, None)

    def next(self) -> float | None:
        """The earliest time, None when nothing is down."""
        while self._heap and self._whens.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def first(self) -> K | None:
        """The key with the earliest time."""
        return None if self.next() is None else self._heap[0][2]

    def pop_due(self, now: float, limit: int) -> list[K]:
        """Strike and return what is due at `now`, earliest first, at most `limit`."""
        due: list[K] = []
        while len(due) < limit and (when := self.next()) is not None and when <= now:
            key = heapq.heappop(self._heap)[2]
            del self._whens[key]
            due.append(key)
        return due
