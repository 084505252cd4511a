"""Families: which programs are of a kind.

A program whose workflow is declared belongs to that. Any other is settled when it is over: it teaches the family whose
roles it shares, by the cosine of the numbers of their calls (as logarithms), or founds one. So a beginning that gets a
name of its own because several programs share it (roles.py) founds a family with it, and the family that they were
lumped into before fades. Families that have become alike in roles and graph are merged. While a program runs, it is of
the family that the roles that it has shown are most typical of, and that may change with each new one. Bounded: the
families that were settled into last are known.

There are two sorts. A `Broad` family holds the branches of one workflow: programs that begin with the same role need
little more in common. A `Narrow` one does not (the same user talking to an airline's agent, or to a shop's), and a
program that may still become of several is of none.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import log1p, sqrt
from typing import Any, TypeAlias

from services.workflow.structure.graph import Graph
from services.workflow.structure.seen import Key
from services.workflow.structure.tally import Tally

Calls: TypeAlias = dict[str, int]
"""Of a program, by role."""

_ALIKE = 0.6
"""From this likeness on a program is of the family."""
_BEGINS_ALIKE = 0.5
"""What it adds to the likeness that all programs of a broad family begin with the program's first role."""
_TYPICAL = 0.5
"""From this mean presence of its roles on a running program is of the family."""
_RIVAL = 0.05
"""Of the programs of two families that a running one may be of: with so many the other one is to be reckoned with."""
_SAME = 0.9
"""From this cosine of roles and of edges on two families are one."""
_KEPT = 2 ** (-1 / 64)
"""What an older program counts after each newer one."""
_FORGOTTEN = 0.01
_MAX_ROLES = 256
_MAX_CANDIDATES = 64
"""Families that are looked at for each role."""


@dataclass(slots=True, eq=False)
class Family:
    """Programs of a kind."""

    key: Key
    tenant: str
    declared: bool = False
    graph: Graph = field(default_factory=Graph)
    programs: float = 0.0
    """Older ones for less."""
    calls: dict[str, float] = field(default_factory=dict[str, float])
    """By role: log(1 + a program's calls), summed over programs."""
    presence: dict[str, float] = field(default_factory=dict[str, float])
    """By role: programs that have it."""
    firsts: dict[str, float] = field(default_factory=dict[str, float])
    """By role: programs that begin with it."""
    listed: dict[str, None] = field(default_factory=dict[str, None])
    """Roles under which it is found."""

    def learn(self, first: str, calls: Calls, tally: Tally) -> None:
        self._fade()
        self.programs += 1.0
        self.firsts[first] = self.firsts.get(first, 0.0) + 1.0
        for role, number in calls.items():
            self.calls[role] = self.calls.get(role, 0.0) + log1p(number)
            self.presence[role] = self.presence.get(role, 0.0) + 1.0
        self.graph.learn(tally)

    def merge(self, other: "Family") -> None:
        self.programs += other.programs
        pairs = ((self.calls, other.calls), (self.presence, other.presence), (self.firsts, other.firsts))
        for mine, theirs in pairs:
            for role, number in theirs.items():
                mine[role] = mine.get(role, 0.0) + number
        self.graph.merge(other.graph)

    def snapshot(self) -> dict[str, Any]:
        """As plain data."""
        counts = {"calls": self.calls, "presence": self.presence, "firsts": self.firsts}
        return {
            "key": list(self.key),
            "tenant": self.tenant,
            "declared": self.declared,
            "programs": self.programs,
            "graph": self.graph.snapshot(),
            **{name: dict(count) for name, count in counts.items()},
        }

    def typical(self, roles: Calls) -> float:
        """Mean share of its programs that have each of the roles."""
        return sum(self.presence.get(role, 0.0) for role in roles) / (self.programs * len(roles))

    def _fade(self) -> None:
        self.programs *= _KEPT
        for counts in (self.calls, self.presence, self.firsts):
            for role, number in list(counts.items()):
                if number * _KEPT < _FORGOTTEN or len(counts) > _MAX_ROLES:
                    del counts[role]
                else:
                    counts[role] = number * _KEPT


class Families:
    """Of all tenants."""

    def __init__(self, name: str, max_families: int, broad: bool) -> None:
        self._name = name
        self._max = max_families
        self._broad = broad
        self._known: OrderedDict[Key, Family] = OrderedDict()
        self._having: dict[tuple[str, str], dict[Key, None]] = {}
        """By tenant and role: families that may have it, in the order in which they came to it."""
        self._merged: OrderedDict[Key, Key] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def check(self) -> None:
        """Raises AssertionError if something is wrong."""
        assert len(self._known) <= self._max
        listed = {(family.tenant, role, key) for key, family in self._known.items() for role in family.listed}
        assert listed == {(*name, key) for name, keys in self._having.items() for key in keys}
        for family in self._known.values():
            assert family.listed.keys() == family.calls.keys()

    def get(self, key: Key) -> Family | None:
        while key in self._merged:
            key = self._merged[key]
        return self._known.get(key)

    def assign(self, tenant: str, calls: Calls) -> Family | None:
        """Whose roles those of a running program are most typical of; None: of nobody's, or of several's."""
        ranked = [(family.typical(calls), family.programs, family) for family in self._sharing(tenant, calls)]
        best = max(ranked, key=lambda each: each[:2], default=None)
        if best is None or best[0] < _TYPICAL:
            return None
        if not self._broad:
            rivals = [each for each in ranked if each[2] is not best[2] and each[0] > best[0] - _RIVAL]
            if any(each[1] > _RIVAL * (each[1] + best[1]) for each in rivals):
                return None
        return best[2]

    def settle(self, tenant: str, workflow: str, first: str, calls: Calls, tally: Tally) -> Family:
        """A program is over; `first`: the role of its first call."""
        family = self._declared(tenant, workflow) if workflow else self._closest(tenant, first, calls)
        if family is None:
            family = self._found(tenant, first)
        family.learn(first, calls, tally)
        self._known.move_to_end(family.key)
        self._list(family)
        if not workflow:
            family = self._merge_alike(family)
        while len(self._known) > self._max:
            self._forget(next(iter(self._known)))
        return family

    def snapshot(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "families": [family.snapshot() for family in self._known.values()],
            "merged": [[list(key), list(into)] for key, into in self._merged.items()],
        }

    def restore(self, data: dict[str, Any]) -> None:
        """What a snapshot tells. For one that knows no family."""
        for each in data["families"][-self._max :]:
            family = _family(each)
            self._known[family.key] = family
            self._list(family)
        for key, into in data["merged"]:
            self._merged[tuple(key)] = tuple(into)

    def _sharing(self, tenant: str, roles: Iterable[str]) -> list[Family]:
        """Those that have one of the roles; of many of one role the last that came to it."""
        having = [self._having.get((tenant, role), {}) for role in roles]
        keys = {key: None for those in having for key in islice(reversed(those), _MAX_CANDIDATES)}
        return [self._known[key] for key in keys if not self._known[key].declared]

    def _closest(self, tenant: str, first: str, calls: Calls) -> Family | None:
        mine = {role: log1p(number) for role, number in calls.items()}
        best, best_rank = None, (_ALIKE, 0.0)
        for family in self._sharing(tenant, calls):
            likeness = _cosine(mine, family.calls)
            if self._broad:
                likeness += _BEGINS_ALIKE * family.firsts.get(first, 0.0) / family.programs
            rank = (likeness, family.programs)
            if rank > best_rank:
                best, best_rank = family, rank
        return best

    def _declared(self, tenant: str, workflow: str) -> Family:
        key = (tenant, "workflow", workflow)
        if key not in self._known:
            self._known[key] = Family(key, tenant, declared=True)
        return self._known[key]

    def _found(self, tenant: str, first: str) -> Family:
        number = 1
        while (key := (tenant, self._name, first, number)) in self._known or key in self._merged:
            number += 1
        self._known[key] = family = Family(key, tenant)
        return family

    def _merge_alike(self, family: Family) -> Family:
        for other in self._sharing(family.tenant, family.calls):
            alike = other is not family and _cosine(family.calls, other.calls) >= _SAME
            if alike and family.graph.likeness(other.graph) >= _SAME:
                larger, smaller = (family, other) if family.programs >= other.programs else (other, family)
                larger.merge(smaller)
                self._forget(smaller.key)
                self._list(larger)
                self._merged[smaller.key] = larger.key
                if len(self._merged) > self._max:
                    self._merged.popitem(last=False)
                return larger
        return family

    def _list(self, family: Family) -> None:
        """Under the roles that it has now."""
        for role in [role for role in family.listed if role not in family.calls]:
            self._unlist(family, role)
        for role in family.calls:
            if role not in family.listed:
                family.listed[role] = None
                self._having.setdefault((family.tenant, role), {})[family.key] = None

    def _unlist(self, family: Family, role: str) -> None:
        del family.listed[role]
        having = self._having[family.tenant, role]
        del having[family.key]
        if not having:
            del self._having[family.tenant, role]

    def _forget(self, key: Key) -> None:
        family = self._known.pop(key)
        for role in list(family.listed):
            self._unlist(family, role)


def _family(data: dict[str, Any]) -> Family:
    family = Family(tuple(data["key"]), data["tenant"], data["declared"], programs=data["programs"])
    family.calls.update(data["calls"])
    family.presence.update(data["presence"])
    family.firsts.update(data["firsts"])
    family.graph.restore(data["graph"])
    return family


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    length = sqrt(sum(each * each for each in one.values()) * sum(each * each for each in other.values()))
    return sum(each * other.get(role, 0.0) for role, each in one.items()) / length if length else 0.0
