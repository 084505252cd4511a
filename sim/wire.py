"""Messages between services: each takes the same time one way, so they arrive in the order in which they were sent.

Everything that is delivered goes into the run's record, a hash over all of it in order.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVar

from services.common.clock import Clock

_M = TypeVar("_M")


class Wire:
    """The network."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.num_messages = 0
        self._seconds = seconds
        self._hash = blake2b(digest_size=16)

    def send(self, deliver: Callable[[_M], None], message: _M) -> None:
        """Hand a message over when it has arrived."""
        self.clock.call_at(self.clock.now() + self._seconds, lambda: self._arrive(deliver, message))

    def record(self, *facts: object) -> None:
        """Enter what happened now in the record."""
        self._hash.update(repr((self.clock.now(), *facts)).encode())

    @property
    def digest(self) -> str:
        """Of the record so far."""
        return self._hash.hexdigest()

    def _arrive(self, deliver: Callable[[_M], None], message: _M) -> None:
        self.num_messages += 1
        deliver(message)
