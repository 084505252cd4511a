"""One stream of the embedded store: entries numbered from 1; an id is `number-0`, which looks like Redis's."""

import asyncio
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from services.common.state.store import GroupStatus, StoreUnavailable, order


@dataclass(slots=True)
class _Group:
    given: int = 0
    """Number of the last entry that a reader got."""
    pending: list[int] = field(default_factory=list[int])
    """Numbers, ascending."""
    read_at: float | None = None
    """When a reader last came."""


class Stream:
    """A deque, who waits for more of it, and its groups."""

    def __init__(self) -> None:
        self._entries: deque[tuple[str, bytes]] = deque()
        self._appended = 0
        self._groups: dict[str, _Group] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def append(self, entry: bytes, keep: int) -> str:
        """The entry's id."""
        self._appended += 1
        entry_id = f"{self._appended}-0"
        self._entries.append((entry_id, entry))
        while len(self._entries) > keep:
            self._entries.popleft()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return entry_id

    async def more(self) -> None:
        """Wait for the next entry."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def read(self, after: int, count: int) -> list[tuple[str, bytes]]:
        start = max(0, after - self._dropped)
        return [self._entries[index] for index in range(start, min(start + count, len(self._entries)))]

    def seek(self, name: str, after: int) -> None:
        self._groups.setdefault(name, _Group()).given = after

    def drop_group(self, name: str) -> None:
        self._groups.pop(name, None)

    def drop_idle_groups(self, since: float) -> None:
        """Those that were read before and not since."""
        for name, group in list(self._groups.items()):
            if group.read_at is not None and group.read_at <= since:
                del self._groups[name]

    def read_group(self, name: str, count: int, now: float) -> list[tuple[str, bytes]]:
        """Raises StoreUnavailable where there is no such group."""
        group = self._groups.get(name)
        if group is None:
            raise StoreUnavailable(f"the state store has no group {name}")
        group.read_at = now
        found = self.read(group.given, count)
        if found:
            numbers = [order(entry_id)[0] for entry_id, _ in found]
            group.given = numbers[-1]
            del group.pending[: bisect_right(group.pending, self._dropped)]
            if group.pending and group.pending[-1] >= numbers[0]:  # given again, after a seek
                numbers = sorted({*group.pending, *numbers})
                group.pending.clear()
            group.pending += numbers
        return found

    def acknowledge(self, name: str, up_to: int) -> None:
        if group := self._groups.get(name):
            del group.pending[: bisect_right(group.pending, up_to)]

    def status(self, name: str) -> GroupStatus:
        group = self._groups.get(name)
        lag = None if group is None else max(0, self._appended - max(group.given, self._dropped))
        pending = 0 if group is None else len(group.pending)
        if not self._entries:
            return GroupStatus(pending=pending, lag=lag)
        return GroupStatus(self._entries[0][0], self._entries[-1][0], pending, lag)

    @property
    def _dropped(self) -> int:
        return self._appended - len(self._entries)
