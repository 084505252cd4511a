"""Fairness as tags: numbers that a call gets once, when it is queued, and by which it is ordered then.

`StartTags` shares engines between tenants: start-time fair queueing (Goyal, Vin, Cheng 1996). A call's tag is
max(V, the tenant's last finish); its finish is the tag + cost / weight; V is the greatest tag placed so far. While two
tenants both have calls waiting, what they were given, each over its weight, differs by at most one call of each:
c_max_f / w_f + c_max_g / w_g, whatever the speeds of the engines, as long as calls cost what was said. A call that
turns out to cost more or less moves its tenant's next tags by the difference; those waiting by then keep theirs, so the
bound grows by the errors of the calls that one tenant has waiting or running at a time.

`Turns` is for a guard: a call whose turn in the ideal system is long past goes first, whatever else its rank.

`VirtualFinish` shares between programs: what would be finished first if all were served at once at equal rates (GPS).
It has no clock: the fluid system is served exactly what the real one is. Programs that are run in the order of their
virtual finish end at most 2 c_max + C_max / M after they would have ended in the fluid system (Justitia's bound with c
a call's and C a program's cost, M the rate; [N]).
"""

from heapq import heappop, heappush
from math import exp, inf
from typing import NamedTuple

_WINDOW_SECONDS = 60.0


class Tag(NamedTuple):
    """Of one call."""

    start: float
    cost: float
    """What it was taken to cost."""
    weight: float
    """Its tenant's, then."""


NO_TAG = Tag(0.0, 0.0, 1.0)


class Flow:
    """One tenant's account."""

    __slots__ = ("finish", "num_calls")

    def __init__(self) -> None:
        self.finish = 0.0
        self.num_calls = 0
        """Queued or running, where that matters."""


class StartTags:
    """Bounded by who holds its flows."""

    def __init__(self) -> None:
        self._virtual = 0.0

    def tag(self, flow: Flow, cost: float, weight: float) -> Tag:
        """A call of the tenant arrives."""
        start = max(self._virtual, flow.finish)
        flow.finish = start + cost / weight
        return Tag(start, cost, weight)

    def placed(self, tag: Tag) -> None:
        """A call with that tag got an engine."""
        self._virtual = max(self._virtual, tag.start)

    def settle(self, flow: Flow, tag: Tag, cost: float) -> None:
        """The call is gone, and cost so much (0: it never ran)."""
        flow.finish += (cost - tag.cost) / tag.weight


class Turns:
    """When calls would begin if the engines served, at every moment, all tenants that have calls by their weights, and
    each tenant's calls as they came (GPS). Counted in service over weight; it goes on as calls end."""

    def __init__(self) -> None:
        self._virtual = self._weight = 0.0
        self._at = self._recent = 0.0

    def enter(self, flow: Flow, cost: float, weight: float) -> float:
        """A call of the tenant arrives; its turn."""
        if not flow.num_calls:
            self._weight += weight
        flow.num_calls += 1
        turn = max(self._virtual, flow.finish)
        flow.finish = turn + cost / weight
        return turn

    def leave(self, flow: Flow, told: float, cost: float, weight: float, now: float) -> None:
        """A call is gone that was to cost what was told, and cost so much."""
        step = cost / self._weight
        self._virtual += step
        self._recent = self._recent * exp((self._at - now) / _WINDOW_SECONDS) + step
        self._at = now
        flow.finish += (cost - told) / weight
        flow.num_calls -= 1
        if not flow.num_calls:
            self._weight -= weight

    def comes_at(self, turn: float) -> float:
        """When that turn is, on the clock, at the pace of the last minutes; or was."""
        ahead = turn - self._virtual
        if self._recent <= 0:
            return self._at if ahead <= 0 else inf
        return self._at + ahead * _WINDOW_SECONDS / self._recent


class VirtualFinish:
    """Bounded by the programs in it, which finish in it when others' service has passed them."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._weight = 0.0
        self._finishes: list[tuple[float, float]] = []

    def enter(self, cost: float, weight: float) -> float:
        """A program that will cost so much arrives; its virtual finish."""
        finish = self._virtual + cost / weight
        heappush(self._finishes, (finish, weight))
        self._weight += weight
        return finish

    def serve(self, cost: float) -> None:
        """So much was served, to whomever."""
        while self._finishes:
            finish, weight = self._finishes[0]
            needed = (finish - self._virtual) * self._weight
            if cost < needed:
                self._virtual += cost / self._weight
                return
            cost -= max(needed, 0.0)
            self._virtual = finish
            heappop(self._finishes)
            self._weight = self._weight - weight if self._finishes else 0.0
