"""CallQueue: calls that wait, in the order in which they should run, apart for each model.

Bounded by the core, which asks `len` and `of_tenant` before it lets a new call in. Each model's calls are one sorted
list: entering costs a binary search and a memory move (microseconds at 10,000 calls), reading the front is free.
A call is ranked when it enters and again when it is promoted, never in between. Shelved calls wait in lists of their
own, in which nobody looks.
"""

from bisect import bisect_left
from collections import Counter

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call

Entry = tuple[tuple[float, ...], Call]


class CallQueue:
    """Waiting calls. `call.order` belongs to it; its last number counts first entries, so that orders are unique."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._models: dict[str, list[Entry]] = {}
        self._shelves: dict[str, list[Entry]] = {}
        self._tenants: Counter[str] = Counter()
        self._size = 0
        self._sequence = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, call: Call) -> bool:
        return self._find(call) is not None

    def of_model(self, model: str) -> int:
        """Calls that wait for the model, without the shelved ones."""
        return len(self._models.get(model, ()))

    def of_tenant(self, tenant: str) -> int:
        """Calls of the tenant that wait."""
        return self._tenants[tenant]

    def push(self, call: Call) -> int:
        """Let a call in; the number of calls of its model that go before it.

        Before their rank go calls that are prefilled (their KV waits in a pool), then restarted ones.
        """
        self._sequence += 1
        entered = call.order[-1] if call.order else self._sequence
        front = (0 if call.attempt else 1) if call.prefilled_at is None else -1
        call.order = (-call.priority, front, *self._ordering.rank(call), entered)
        entries = self._lists(call).setdefault(call.model, [])
        position = bisect_left(entries, (call.order,))
        entries.insert(position, (call.order, call))
        self._size += 1
        self._tenants[call.program.tenant] += 1
        return position

    def remove(self, call: Call) -> int:
        """Take a waiting call out; the number of calls of its model that went before it."""
        lists = self._lists(call)
        position = self._find(call)
        assert position is not None, call.key
        del lists[call.model][position]
        if not lists[call.model]:
            del lists[call.model]
        self._size -= 1
        self._tenants[call.program.tenant] -= 1
        if not self._tenants[call.program.tenant]:
            del self._tenants[call.program.tenant]
        return position

    def shelve(self, call: Call, shelved: bool) -> None:
        """Put a waiting call on the shelf, or back from there."""
        self.remove(call)
        call.shelved = shelved
        self.push(call)

    def shelf(self, model: str) -> list[Call]:
        """The shelved calls of the model."""
        return [call for _, call in self._shelves.get(model, ())]

    def shelves(self) -> list[str]:
        """Models with shelved calls."""
        return list(self._shelves)

    def front(self, model: str, limit: int) -> list[Call]:
        """The next calls of the model, first first."""
        return [call for _, call in self._models.get(model, ())[:limit]]

    def promotes_at(self, call: Call) -> float:
        """When to call `promote`."""
        return self._ordering.promotes_at(call)

    def promote(self, call: Call, now: float) -> None:
        """The call starved: rank it again as such."""
        self.remove(call)
        call.promoted = True
        call.waiting_since = now
        self.push(call)

    def _lists(self, call: Call) -> dict[str, list[Entry]]:
        return self._shelves if call.shelved else self._models

    def _find(self, call: Call) -> int | None:
        entries = self._lists(call).get(call.model, [])
        position = bisect_left(entries, (call.order,))
        found = position < len(entries) and entries[position][1] is call
        return position if found else None
