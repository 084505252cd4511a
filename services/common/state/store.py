"""What a state store does.

A name is a value (`put`), a counter (`increment`, and `put` or `get` of its decimal digits) or a stream (`append`); to
use it as two of them is a bug of the caller. Every operation may raise StoreUnavailable; whether it then took effect
is unknown. All may be repeated: values are overwritten, `increment` and `append` count once per request id. Only
`append_many` adds its entries again when it is repeated.

A *group* is a place in a stream that the store keeps for its readers: each entry is given to one of them, and is
pending until it is acknowledged. A reader that wants entries again seeks back.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.common.errors import Failure, Reason

ONCE_SECONDS: Final = 600
"""How long a request id is remembered after its operation took effect. Repeats must come sooner."""
KEPT_ENTRIES: Final = 100_000
"""Unless its writer says otherwise a stream keeps at least this many of its newest entries; older ones are dropped."""


class StoreUnavailable(Failure):
    """The store did not answer in time, or refused. UNAVAILABLE when it leaves a service; repeat it later."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.UNAVAILABLE, message)


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A stream, and how far a group has come in it. Ids are "" where there is no entry, or no stream."""

    oldest: str = ""
    """Id of the oldest entry that is kept."""
    newest: str = ""
    pending: int = 0
    """Entries that were given out and not acknowledged, of which some may have been dropped since."""
    lag: int | None = None
    """Entries that were not given out yet; None: not known, or there is no group."""


def order(entry_id: str) -> tuple[int, int]:
    """Sorts ids of one stream as their entries were appended. "" and "0" are before all of them."""
    first, _, second = entry_id.partition("-")
    return int(first or 0), int(second or 0)


class Store(Protocol):
    """Keys are text without the cluster's prefix, values are bytes."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, expire_seconds: float | None = None) -> None:
        """Set the value and its time to live; None: it stays."""
        ...

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        """All of them or, when this raises, possibly none; never some."""
        ...

    async def write(
        self,
        fence: str,
        token: int,
        put: Mapping[str, bytes],
        delete: Collection[str] = (),
        expire_seconds: float | None = None,
    ) -> int:
        """Put values and remove others: all of it or, when this raises, possibly nothing; nothing where the fence has
        met a greater token. Returns the greatest that it has met: `token`, if it was done. Fences are no keys.
        """
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

    async def append_many(self, stream: str, entries: Sequence[bytes], keep: int = KEPT_ENTRIES) -> None:
        """Add to the end of a stream, in order and in one round trip: at least once, all of them or, when this raises,
        possibly none. At least the newest `keep` are kept, which must be the same for all who append to the stream.
        """
        ...

    async def read(
        self, stream: str, after: str = "0", count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        """Up to `count` entries, oldest first, beginning after the id `after` ("0": the oldest that is kept).

        Where there are none it waits so long for one.
        """
        ...

    async def seek(self, stream: str, group: str, after: str = "0") -> None:
        """Have the group's readers be given what comes after that id, whatever they were given before. Makes the group,
        and the stream, where there is none."""
        ...

    async def read_group(
        self, stream: str, group: str, reader: str, count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        """As `read`, but what no reader of the group was given yet. Raises StoreUnavailable where there is no group:
        the store has lost it.

        Who was interrupted, by a failure or by being cancelled, does not know what it was given, nor whether that is
        over: it goes on in a new group, out of reach of what is still on its way in this one.
        """
        ...

    async def acknowledge(self, stream: str, group: str, up_to: str) -> None:
        """Entries up to that id, and with it, are no longer pending. Nothing where there is no group."""
        ...

    async def drop_group(self, stream: str, group: str) -> None:
        """Forget the group. The stream stays."""
        ...

    async def drop_idle_groups(self, stream: str, idle_seconds: float) -> None:
        """Forget the groups whose readers, of which there was one at least, all came last so long ago."""
        ...

    async def status(self, stream: str, group: str) -> GroupStatus:
        """How the stream and the group stand."""
        ...
