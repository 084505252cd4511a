"""Where a program stands: which calls the next one follows.

A thread is a chain of calls. Its front are the finished calls that nothing has followed yet. A call or a branch begins
at the front of its time and, when done, takes the place of what it began from. So a sequence is a chain, whatever ran
at once is a fork, and the first call after it has all of them as parents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Front = Mapping[str, str]
"""Call ids, and the agent that made each, in the order in which they finished."""


@dataclass(slots=True)
class Thread:
    """One chain of calls. The main thread's id is empty."""

    id: str = ""
    front: Front = field(default_factory=dict[str, str])
    parent: "Thread | None" = None
    _num_branches: int = 0
    _names: set[str] = field(default_factory=set[str])

    def advance(self, began: Front, ended: Front) -> None:
        """Something that began at one front ended at another."""
        if ended != began:
            self.front = {call: agent for call, agent in self.front.items() if call not in began} | dict(ended)

    def fork(self, name: str = "") -> "Thread":
        """A thread that begins here, with an id of its own: `name`, or its number."""
        self._num_branches += 1
        name = name or str(self._num_branches)
        if name in self._names:
            name = f"{name}-{self._num_branches}"
        self._names.add(name)
        return Thread(f"{self.id}/{name}" if self.id else name, self.front, self)

    def within(self, other: "Thread") -> bool:
        """It is the other thread or was forked from it, at whatever remove."""
        return self is other or (self.parent is not None and self.parent.within(other))
