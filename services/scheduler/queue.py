"""CallQueue: calls that wait, in the order in which they should run, apart for each model.

Bounded by the core, which asks `len` and `of_tenant` before it lets a new call in. Each model's calls are one sorted
list: entering costs a binary search and a memory move (microseconds at 10,000 calls), reading the front is free.
A call is ranked when it enters, when it is promoted and when a forecast of it comes or expires, never in between. Calls
in the lobby (lobby.py) wait in lists of their own, shelved ones in others, in which nobody looks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from services.scheduler.ordering import Ordering
from services.scheduler.records import Call

Entry = tuple[tuple[float, ...], Call]


class CallQueue:
    """Waiting calls. `call.order` belongs to it; its last number counts first entries, so that orders are unique."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._models: dict[str, list[Entry]] = {}
        self._lobbies: dict[str, list[Entry]] = {}
        self._shelves: dict[str, list[Entry]] = {}
        self._tenants: Counter[str] = Counter()
        self._size = 0
        self._sequence = 0
        self._sights: dict[str, int] = {}
        self._fresh: dict[str, dict[Call, None]] = {}

    def __len__(self) -> int:
        return self._size

    def __contains__(self, call: Call) -> bool:
        return self._find(call) is not None

    def of_model(self, model: str) -> int:
        """Calls that wait for the model, without the shelved ones."""
        return len(self._models.get(model, ())) + len(self._lobbies.get(model, ()))

    def of_tenant(self, tenant: str) -> int:
        """Calls of the tenant that wait."""
        return self._tenants[tenant]

    def push(self, call: Call) -> int:
        """Let a call in; the number of calls of its model that go before it.

        Before their rank go restarted calls; in the lobby also those whose programs ran before, and starved ones. One
        that is prefilled is ranked as any other: where prefill workers are faster than decoders there is always
        another.
        """
        self._sequence += 1
        entered = call.order[-1] if call.order else self._sequence
        restarted = call.attempt > (call.prefilled_at is not None)
        first = restarted or call.resumed or (call.in_lobby and call.promoted)
        call.level = self._ordering.level(call)
        call.order = (-call.priority, float(not first), *self._ordering.rank(call), entered)
        self._size += 1
        self._tenants[call.program.tenant] += 1
        return self._insert(call)

    def remove(self, call: Call) -> int:
        """Take a waiting call out; the number of calls of its model that went before it."""
        position = self._take(call)
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

    def let_in(self, call: Call) -> int:
        """From the lobby to those that placement looks at; the number of these that go before it."""
        self._take(call)
        call.in_lobby = False
        return self._insert(call)

    def shelf(self, model: str) -> list[Call]:
        """The shelved calls of the model."""
        return [call for _, call in self._shelves.get(model, ())]

    def shelves(self) -> list[str]:
        """Models with shelved calls."""
        return list(self._shelves)

    def lobby(self, model: str, limit: int) -> list[Call]:
        """The next calls of the model in the lobby."""
        return [call for _, call in self._lobbies.get(model, ())[:limit]]

    def lobbies(self) -> list[str]:
        """Models with calls in the lobby."""
        return list(self._lobbies)

    def front(self, model: str, limit: int) -> list[Call]:
        """The next calls of the model, first first, without those in the lobby."""
        return [call for _, call in self._models.get(model, ())[:limit]]

    def see(self, model: str, limit: int) -> None:
        """Placement looks at so many calls of the model from now on; before it is told, at none."""
        before = self._sights.get(model, 0)
        self._sights[model] = limit
        if limit > before:
            for _, call in self._models.get(model, [])[before:limit]:
                self._came_into_sight(call)

    def seen(self, model: str) -> int:
        """At how many calls of the model placement looks."""
        return self._sights.get(model, 0)

    def fresh(self, model: str) -> dict[Call, None]:
        """Those in sight about which placement has not decided; it strikes out those that it looks at."""
        return self._fresh.get(model, {})

    def look_again(self, calls: Iterable[Call]) -> None:
        """Those of them that still wait are fresh again, if they are in sight."""
        for call in calls:
            if call.in_lobby or call.shelved or (position := self._find(call)) is None:
                continue
            if position < self._sights.get(call.model, 0):
                self._came_into_sight(call)

    def promotes_at(self, call: Call) -> float:
        """When to call `promote`."""
        return self._ordering.promotes_at(call)

    def promote(self, call: Call, now: float) -> None:
        """The call starved: rank it again as such."""
        self.remove(call)
        call.promoted = True
        call.waiting_since = now
        self.push(call)

    @contextmanager
    def reordered(self, call: Call) -> Generator[None]:
        """What is believed of a waiting call changes inside: rank it again."""
        self.remove(call)
        yield
        self.push(call)

    def _insert(self, call: Call) -> int:
        entries = self._lists(call).setdefault(call.model, [])
        position = bisect_left(entries, (call.order,))
        entries.insert(position, (call.order, call))
        if not (call.in_lobby or call.shelved) and position < self._sights.get(call.model, 0):
            self._came_into_sight(call)
        return position

    def _take(self, call: Call) -> int:
        lists = self._lists(call)
        position = self._find(call)
        assert position is not None, call.key
        entries = lists[call.model]
        del entries[position]
        if not entries:
            del lists[call.model]
        if lists is self._models:
            self._left(call)
            sight = self._sights.get(call.model, 0)
            if position < sight <= len(entries):
                self._came_into_sight(entries[sight - 1][1])
        return position

    def _came_into_sight(self, call: Call) -> None:
        if call.hold is None:
            self._fresh.setdefault(call.model, {})[call] = None

    def _left(self, call: Call) -> None:
        if call.hold is not None:
            call.hold.outlook.drop(call)
        elif (fresh := self._fresh.get(call.model)) is not None:
            fresh.pop(call, None)
            if not fresh:
                del self._fresh[call.model]

    def _lists(self, call: Call) -> dict[str, list[Entry]]:
        if call.in_lobby:
            return self._lobbies
        return self._shelves if call.shelved else self._models

    def _find(self, call: Call) -> int | None:
        entries = self._lists(call).get(call.model, [])
        position = bisect_left(entries, (call.order,))
        found = position < len(entries) and entries[position][1] is call
        return position if found else None
