"""A link or a device that carries one thing after the other at a given speed."""

from collections.abc import Callable

from services.common.clock import Clock


class Lane:
    """First come, first carried."""

    def __init__(self, clock: Clock, bytes_per_second: float) -> None:
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._free_at = clock.now()

    def carry(self, num_bytes: int, done: Callable[[], None]) -> None:
        """Call `done` when it has arrived."""
        self._free_at = max(self._free_at, self._clock.now()) + num_bytes / self._bytes_per_second
        self._clock.call_at(self._free_at, done)
