"""Branches: how much slack each live branch of a program has until the longest one is done.

What follows the join is the same for all of them, so the difference of what remains at each is its slack. It is said
again only when it has changed by much: no branch's forecast is surer than that.
"""

from typing import TypeAlias

from services.workflow.records import Call, Program, Thread

_MUCH = 0.25
"""Of the longest branch."""

End: TypeAlias = Call | Thread
"""Of a branch, as far as it has come: a live call, or a thread whose next call is awaited."""


def changed(program: Program) -> dict[End, float]:
    """Of the branches that live, those whose importance is not what was said of them, with what it is. An idle thread
    counts for as much as it is likely to go on."""
    ends: list[End] = []
    for thread in program.threads.values():
        if thread.live:
            ends += thread.live.values()
        elif thread.returns is not None:
            ends.append(thread)
    longest = max([end.expected_seconds for end in ends], default=0.0)
    much = _MUCH * longest
    found: dict[End, float] = {}
    for end in ends:
        importance = end.expected_seconds - longest
        if abs(importance - end.forecast.importance) > much:
            found[end] = importance
    return found
