"""Room: how many bytes may lie somewhere at once, where each lies for the same time and is then gone by itself."""

import itertools
from collections import OrderedDict
from collections.abc import Callable

_LEAST_BYTES = 1024
"""What is smaller counts for as much: whatever holds it needs room around it, and so does this."""


class Room:
    """`most_bytes`, each for so many seconds by `clock`."""

    def __init__(self, most_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._tickets = itertools.count(1)
        self._taken: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """When each is gone, and its size, by ticket; in that order."""
        self._size_bytes = 0

    def take(self, size_bytes: int) -> int | None:
        """A ticket for so many, which are taken now; None: there is no room for them."""
        now, size_bytes = self._clock(), max(size_bytes, _LEAST_BYTES)
        while self._taken and next(iter(self._taken.values()))[0] <= now:
            self._size_bytes -= self._taken.popitem(last=False)[1][1]
        if self._size_bytes + size_bytes > self._most_bytes:
            return None
        ticket = next(self._tickets)
        self._taken[ticket] = (now + self._seconds, size_bytes)
        self._size_bytes += size_bytes
        return ticket

    def give_back(self, ticket: int) -> None:
        """It was not used."""
        _, size_bytes = self._taken.pop(ticket, (0.0, 0))
        self._size_bytes -= size_bytes
