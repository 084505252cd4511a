"""Who is there: a pure view of one service's members that outlives the registry's absences.

Deletions count at once while the registry is reachable. After an absence (a `reset` that is not the first) nobody is
dropped for `grace_seconds`: the registry may have lost every lease meanwhile though the members live, and they need
about that long to announce themselves again. Whoever is still missing then is dropped. So a member that really left
during or right after an absence stays listed for up to `grace_seconds` longer; its callers find out by calling.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a service."""

    service: str
    id: str
    address: str
    """host:port; empty: it cannot be called."""
    metadata: Mapping[str, str]


class Membership:
    """Members by id. `now` is in seconds on any clock; call `tick` at `next_tick`."""

    def __init__(self, grace_seconds: float) -> None:
        self.members: dict[str, Member] = {}
        self._grace_seconds = grace_seconds
        self._listed = False
        self._missing: set[str] = set()
        """Members that the registry does not have but that are kept. Empty outside a grace time."""
        self._grace_until: float | None = None

    def reset(self, listed: Mapping[str, Member], now: float) -> None:
        """Take the registry's whole list: the first one, or one taken after an absence."""
        if self._listed:
            self._grace_until = now + self._grace_seconds
        self._listed = True
        self._missing = self.members.keys() - listed.keys()
        self.members |= listed

    def put(self, member: Member) -> None:
        """A member announced itself."""
        self.members[member.id] = member
        self._missing.discard(member.id)

    def drop(self, id: str, now: float) -> None:
        """A member's key was deleted."""
        self.tick(now)
        if id not in self.members:
            return
        if self._grace_until is None:
            del self.members[id]
        else:
            self._missing.add(id)

    def tick(self, now: float) -> None:
        """Drop who is still missing when the grace time is over."""
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
            for id in self._missing:
                del self.members[id]
            self._missing.clear()

    def next_tick(self) -> float | None:
        """When the grace time ends; None if there is none."""
        return self._grace_until
