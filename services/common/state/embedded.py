"""The state store inside the process, for one machine and for tests. Nothing is on disk: it ends with its users."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager

from services.common.clock import Clock, LoopClock
from services.common.state.store import KEPT_ENTRIES, ONCE_SECONDS, GroupStatus, order
from services.common.state.stream import Stream


class EmbeddedStore:
    """A Store of dicts. Its operations take effect at once, so none is ever unavailable."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values = _Expiring(clock)
        self._once = _Expiring(clock)
        self._streams: dict[str, Stream] = {}
        self._fences: dict[str, int] = {}
        self.users = 0
        """How many connections share it."""

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: str, value: bytes, expire_seconds: float | None = None) -> None:
        self._values.put(key, value, expire_seconds)

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        for key, value in items.items():
            self._values.put(key, value, expire_seconds)

    async def write(
        self,
        fence: str,
        token: int,
        put: Mapping[str, bytes],
        delete: Collection[str] = (),
        expire_seconds: float | None = None,
    ) -> int:
        met = self._fences[fence] = max(token, self._fences.get(fence, 0))
        if met == token:
            await self.put_many(put, expire_seconds)
            await self.delete(*delete)
        return met

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._values.drop(key)
            self._streams.pop(key, None)

    async def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        for key in self._values.keys_from(prefix):
            value = self._values.get(key)
            if value is not None:
                yield key, value

    async def increment(self, key: str, by: int, request_id: str) -> int:
        once = f"value {len(key)} {key} {request_id}"
        first = self._once.get(once)
        if first is not None:
            return int(first)
        total = int(self._values.get(key) or 0) + by
        self._values.replace(key, b"%d" % total)
        self._once.put(once, b"%d" % total, ONCE_SECONDS)
        return total

    async def append(self, stream: str, entry: bytes, request_id: str) -> str:
        once = f"stream {len(stream)} {stream} {request_id}"
        first = self._once.get(once)
        if first is not None:
            return first.decode()
        entry_id = self._stream(stream).append(entry, KEPT_ENTRIES)
        self._once.put(once, entry_id.encode(), ONCE_SECONDS)
        return entry_id

    async def append_many(self, stream: str, entries: Sequence[bytes], keep: int = KEPT_ENTRIES) -> None:
        for entry in entries:
            self._stream(stream).append(entry, keep)

    async def read(
        self, stream: str, after: str = "0", count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        return await self._waited(stream, wait_seconds, lambda: self._stream(stream).read(order(after)[0], count))

    async def seek(self, stream: str, group: str, after: str = "0") -> None:
        self._stream(stream).seek(group, order(after)[0])

    async def read_group(
        self, stream: str, group: str, reader: str, count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        now = self._clock.now
        return await self._waited(stream, wait_seconds, lambda: self._stream(stream).read_group(group, count, now()))

    async def acknowledge(self, stream: str, group: str, up_to: str) -> None:
        self._stream(stream).acknowledge(group, order(up_to)[0])

    async def drop_group(self, stream: str, group: str) -> None:
        self._stream(stream).drop_group(group)

    async def drop_idle_groups(self, stream: str, idle_seconds: float) -> None:
        self._stream(stream).drop_idle_groups(self._clock.now() - idle_seconds)

    async def status(self, stream: str, group: str) -> GroupStatus:
        return self._stream(stream).status(group)

    def _stream(self, name: str) -> Stream:
        return self._streams.setdefault(name, Stream())

    async def _waited(
        self, stream: str, seconds: float, read: Callable[[], list[tuple[str, bytes]]]
    ) -> list[tuple[str, bytes]]:
        found = read()
        if found or not seconds:
            return found
        try:
            async with asyncio.timeout(seconds):
                while not found:
                    await self._stream(stream).more()
                    found = read()
        except TimeoutError:
            return []
        return found


_shared: dict[str, EmbeddedStore] = {}


@contextmanager
def shared(cluster: str) -> Generator[EmbeddedStore]:
    """The process's store of that cluster: made for its first user, forgotten after its last."""
    store = _shared.setdefault(cluster, EmbeddedStore(LoopClock()))
    store.users += 1
    try:
        yield store
    finally:
        store.users -= 1
        if not store.users:
            del _shared[cluster]


class _Expiring:
    """Values with a time to live. Expired ones are removed by the next `put` of any key, so they do not pile up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float]] = {}
        self._dues: list[tuple[float, str]] = []
        """A heap of when which key may be due; holds the past times of keys that were put anew, too."""

    def get(self, key: str) -> bytes | None:
        value, due = self._values.get(key, (None, 0.0))
        return value if due > self._clock.now() else None

    def put(self, key: str, value: bytes, expire_seconds: float | None) -> None:
        self._sweep()
        due = float("inf") if expire_seconds is None else self._clock.now() + expire_seconds
        self._values[key] = (value, due)
        if expire_seconds is not None:
            heapq.heappush(self._dues, (due, key))

    def replace(self, key: str, value: bytes) -> None:
        """Put, keeping the time to live."""
        if self.get(key) is None:
            self.put(key, value, None)
        else:
            self._values[key] = (value, self._values[key][1])

    def drop(self, key: str) -> None:
        self._values.pop(key, None)

    def keys_from(self, prefix: str) -> list[str]:
        return [key for key in self._values if key.startswith(prefix)]

    def _sweep(self) -> None:
        if len(self._dues) > 2 * len(self._values) + 64:
            self._dues = [(due, key) for key, (_, due) in self._values.items() if due != float("inf")]
            heapq.heapify(self._dues)
        while self._dues and self._dues[0][0] <= self._clock.now():
            due, key = heapq.heappop(self._dues)
            if key in self._values and self._values[key][1] == due:
                del self._values[key]
