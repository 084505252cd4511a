"""Room: how many bytes may lie somewhere at once, where each lies for the same time and is then gone by itself."""

from collections import deque
from collections.abc import Callable

_LEAST_BYTES = 1024
"""What is smaller counts for as much: whatever holds it needs room around it, and so does this."""


class Room:
    """`most_bytes`, each for so many seconds by `clock`."""

    def __init__(self, most_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._taken: deque[tuple[float, int]] = deque()
        """When each is gone, and its size; in that order."""
        self._size_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Whether there is room for so many now; they are taken then."""
        now, size_bytes = self._clock(), max(size_bytes, _LEAST_BYTES)
        while self._taken and self._taken[0][0] <= now:
            self._size_bytes -= self._taken.popleft()[1]
        if self._size_bytes + size_bytes > self._most_bytes:
            return False
        self._taken.append((now + self._seconds, size_bytes))
        self._size_bytes += size_bytes
        return True
