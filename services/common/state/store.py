"""What a state store does.

A name is a value (`put`), a counter (`increment`, and `put` or `get` of its decimal digits) or a stream (`append`); to
use it as two of them is a bug of the caller. Every operation may raise StoreUnavailable; whether it then took effect
is unknown. All may be repeated: values are overwritten, `increment` and `append` count once per request id.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

from services.common.errors import Failure, Reason

ONCE_SECONDS: Final = 600
"""How long a request id is remembered after its operation took effect. Repeats must come sooner."""
KEPT_ENTRIES: Final = 100_000
"""A stream keeps at least this many of its newest entries; older ones are dropped."""


class StoreUnavailable(Failure):
    """The store did not answer in time, or refused. UNAVAILABLE when it leaves a service; repeat it later."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.UNAVAILABLE, message)


class Store(Protocol):
    """Keys are text without the cluster's prefix, values are bytes."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, expire_seconds: float | None = None) -> None:
        """Set the value and its time to live; None: it stays."""
        ...

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        """All of them or, when this raises, possibly none; never some."""
        ...

    async def delete(self, *keys: str) -> None:
        """Remove values, counters and streams, whether or not they are there."""
        ...

    def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        """Values and counters whose key starts so, each once, in no order. Changes made meanwhile may be missed."""
        ...

    async def increment(self, key: str, by: int, request_id: str) -> int:
        """Add to a counter (0 when new); the sum. Exactly once per key and request id: a repeat returns the first sum.

        A time to live that the counter has is kept.
        """
        ...

    async def append(self, stream: str, entry: bytes, request_id: str) -> str:
        """Add to the end of a stream; the entry's id. Exactly once per stream and request id."""
        ...

    async def read(self, stream: str, after: str = "0", count: int = 1000) -> list[tuple[str, bytes]]:
        """Up to `count` entries, oldest first, beginning after the id `after` ("0": the oldest that is kept)."""
        ...
