"""Course: what one program has done so far, in the terms of its family's graph."""

from services.workflow.structure.record import MAX_CALLS, Record
from services.workflow.structure.tally import (
    AND,
    END,
    FOLLOWS,
    JOINS,
    OR,
    POSITIONS,
    PROGRAMS,
    STOPPED,
    WENT_ON,
    WIDTHS,
    Tally,
    octave,
)

_MAX_FORKS = 64
_MAX_ROLES = 256


class Course:
    """Of one program. A call counts once something follows it; the calls that nothing follows count at its end."""

    __slots__ = ("_forks", "_last", "_num_calls", "_races", "_tips", "calls_of", "shown", "tally")

    def __init__(self) -> None:
        self.tally = Tally()
        self.calls_of: dict[str, int] = {}
        """Calls by role."""
        self.shown: dict[str, int] = {}
        """Calls by role and, where that is the agent's name, by what the prompt begins with."""
        self._num_calls = 0
        self._forks: dict[tuple[str, ...], int] = {}
        """Calls by node and parents."""
        self._races: dict[int, str] = {}
        """By fork, who went on with one of its calls while others ran; empty: each of its calls has one who goes on."""
        self._last: dict[str, Record] = {}
        """Calls that nothing follows."""
        self._tips: dict[str, Record] = {}
        """Calls that their chain did not go on from."""

    def begin(self, record: Record, running_beside: int) -> None:
        """`running_beside`: calls in flight of the fork of the call's first parent."""
        tally, node = self.tally, record.node
        if not tally.row(PROGRAMS, node):
            tally.count(PROGRAMS, node, 0)
            tally.count(POSITIONS, node, 0, self._num_calls)
        self._num_calls += 1
        for calls, role in ((self.calls_of, record.role), (self.shown, record.shown)):
            if role in calls or len(calls) < _MAX_ROLES:
                calls[role] = calls.get(role, 0) + 1
        for parent in record.parents:
            self._last.pop(parent.call_id, None)
            if node not in parent.followers:
                parent.followers = (*parent.followers, node)
                tally.count(FOLLOWS, parent.node, node)
        self._turn(record)
        self._fork(record)
        self._join(record, running_beside)
        self._last[record.call_id] = self._tips[record.call_id] = record
        if len(self._tips) > MAX_CALLS:
            del self._tips[next(iter(self._tips))]
        if len(self._last) > MAX_CALLS:
            del self._last[next(iter(self._last))]

    def finish(self) -> Tally:
        """The program is over."""
        for record in self._last.values():
            self.tally.count(FOLLOWS, record.node, END)
        for record in self._tips.values():
            self.tally.count(STOPPED, record.node, octave(record.turn))
        self._last.clear()
        self._tips.clear()
        return self.tally

    def _turn(self, record: Record) -> None:
        before = record.predecessor
        if before is not None and self._tips.pop(before.call_id, None) is not None:
            self.tally.count(WENT_ON, before.node, octave(before.turn))

    def _fork(self, record: Record) -> None:
        key = (record.node, *(parent.call_id for parent in record.parents))
        width = self._forks.pop(key, 0)
        if width:
            self.tally.count(WIDTHS, record.node, width, -1.0)
        self.tally.count(WIDTHS, record.node, width + 1)
        self._forks[key] = width + 1
        if len(self._forks) > _MAX_FORKS:
            del self._forks[next(iter(self._forks))]

    def _join(self, record: Record, running_beside: int) -> None:
        if len(record.parents) > 1:
            self.tally.count(JOINS, record.node, AND)
            return
        fork = record.parents[0].fork if record.parents else record.fork
        if fork == record.fork:
            return
        first = self._races.get(fork)
        if first is None and running_beside:
            self.tally.count(JOINS, record.node, OR)
            self._races[fork] = record.node
            if len(self._races) > _MAX_FORKS:
                del self._races[next(iter(self._races))]
        elif first == record.node:
            # Branches that each have their own who goes on with them are no join.
            self.tally.count(JOINS, record.node, OR, -1.0)
            self._races[fork] = END
