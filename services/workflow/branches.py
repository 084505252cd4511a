"""Branches: how much slack each live branch of a program has until the longest one is done.

What follows the join is the same for all of them, so the difference of what remains at each is its slack. It is said
again only when it has changed by much: no branch's forecast is surer than that.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from services.workflow.records import Call, Program, Thread

_MUCH = 0.25
"""Of the longest branch."""

End: TypeAlias = Call | Thread
"""Of a branch, as far as it has come: a live call, or a thread whose next call is awaited."""


class Branch(NamedTuple):
    """A branch that lives."""

    end: End
    left: float
    """Engine seconds until the program's end, along it."""


def branches(program: Program) -> Sequence[Branch]:
    """All of a program. An idle thread counts for as much as it is likely to go on."""
    found: list[Branch] = []
    for thread in program.threads.values():
        found += [Branch(call, call.expected_seconds) for call in thread.live.values()]
        if not thread.live and thread.returns is not None:
            found.append(Branch(thread, thread.expected_seconds))
    return found


def changed(found: Sequence[Branch]) -> Iterator[tuple[End, float]]:
    """Those whose importance is not what was said of them, with what it is."""
    longest = max((branch.left for branch in found), default=0.0)
    for end, left in found:
        if abs(left - longest - end.forecast.importance) > _MUCH * longest:
            yield end, left - longest
