"""Learner: the core, fed with the call log in order, what is foreseen on the board, and what is kept to be explained.

Whatever the core is told is told at the entry's own time, and what is due between two entries is done at its time, so
that a log which is read again leads to where it led. Nothing in an entry can stop it: what cannot be read, or what
the core stumbles over, is counted and skipped.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from legato.v1 import workflow_pb2
from services.common.state import order
from services.workflow import metrics
from services.workflow.board import Board
from services.workflow.core import Core
from services.workflow.events import CallEnded, Event, Foreseen, ProgramOver
from services.workflow.recent import Recent
from services.workflow.translation import event_of, foretold_of

_log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Entries that are learned from before anybody else gets the loop."""

_T = TypeVar("_T")


class Learner:
    """`begin` makes a core that knows nothing, `clock` tells Unix time."""

    def __init__(self, begin: Callable[[], Core], board: Board, recent: Recent, clock: Callable[[], float]) -> None:
        self.core = begin()
        self.board = board
        self.recent = recent
        self.position = ""
        """How far in the log everything was learned."""
        self._told = ""
        """How far it was begun with."""
        self._begin = begin
        self._clock = clock
        self._revision = 0

    @property
    def whole(self) -> bool:
        """Whether the core knows nothing of what follows `position`."""
        return self._told == self.position

    def restore(self, core: Mapping[str, Any], position: str) -> None:
        """Go on from what a core knew at that position. Raises whatever a core raises for what it did not write, and
        for what is no position; it is then as it was."""
        revision, restored = revision_of(position), self._begin()
        restored.restore(core)
        self.core, self.position, self._told = restored, position, position
        self._revision = revision

    def at(self, position: str) -> None:
        """What follows was written to the log at that position."""
        self._told = position
        self._revision = max(self._revision, revision_of(position))

    def take(self, entries: Sequence[workflow_pb2.LogEntry], *, live: bool = False) -> None:
        """The next entries of the log: few, for nobody else gets the loop meanwhile. What is foreseen by `live` ones,
        which were waited for, counts from now on, whatever their writer's clock says; by others, from their time on."""
        began, now, before = time.perf_counter(), self._clock(), self._revision
        oldest = now
        for entry in entries:
            if (event := event_of(entry)) is None:
                metrics.SKIPPED.labels("unknown").inc()
            else:
                # By a clock that runs ahead the core would believe everybody to have been idle ever since.
                at = min(entry.at, now)
                oldest = min(oldest, at)
                self._learn(entry, event, at, made=now if live else at)
        metrics.ENTRY_SECONDS.observe((time.perf_counter() - began) / len(entries))
        metrics.LAG_SECONDS.observe(max(now - oldest, 0.0))
        metrics.FORECASTS.inc(self._revision - before)

    def advance(self, now: float) -> None:
        """Do what is due by then."""
        last = -1.0
        while (due := self.core.next_tick()) is not None and last < due <= now:
            last = due
            self._post(self._guarded(self.core.tick, due), due)

    def _learn(self, entry: workflow_pb2.LogEntry, event: Event, at: float, made: float) -> None:
        self.advance(at)
        self._post(self._guarded(self.core.handle, event, at), made)
        self._guarded(self.recent.add, event, entry, self.core.kind_of(event.program_id))
        if isinstance(event, CallEnded):
            self.board.ended(event.program_id, event.call_id)
        elif isinstance(event, ProgramOver):
            self.board.over(event.program_id)

    def _guarded(self, step: Callable[..., _T], *arguments: Any) -> _T | None:
        """What the step returns; None where it fails by a bug, which must not keep us from what comes after."""
        try:
            return step(*arguments)
        except Exception:
            _log.exception("an entry of the call log was not learned from")
            metrics.SKIPPED.labels("failed").inc()
            return None

    def _post(self, actions: Sequence[Foreseen] | None, made: float) -> None:
        for foreseen in actions or ():
            self._revision += 1
            self.board.post(foretold_of(foreseen, self._revision), made)


def revision_of(position: str) -> int:
    """Of the first forecast from there on: about the same in every instance, and greater than any before."""
    first, second = order(position)
    return (first << 22) + (second << 12)
