"""Learner: the core and the explainer, fed with the call log in order, and what is foreseen on the board.

Whatever the core is told is told at the entry's own time, and what is due between two entries is done at its time, so
that a log which is read again leads to where it led. Nothing in an entry can stop it: what cannot be read, or what
the core stumbles over, is counted and skipped.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from legato.v1 import workflow_pb2
from services.common.state import order
from services.workflow import metrics
from services.workflow.board import Board
from services.workflow.core import Core
from services.workflow.events import Event, Foreseen, ProgramOver
from services.workflow.explain import Explainer
from services.workflow.explain_translation import detail_of
from services.workflow.translation import event_of, foretold_of

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Learner:
    """`begin` makes a core that knows nothing, `clock` tells Unix time."""

    def __init__(
        self, begin: Callable[[], Core], board: Board, explainer: Explainer, clock: Callable[[], float]
    ) -> None:
        self.core = begin()
        self.board = board
        self.explainer = explainer
        self.position = ""
        """How far in the log everything was learned."""
        self._begin = begin
        self._clock = clock
        self._revision = 0

    def restore(self, core: Mapping[str, Any], position: str) -> None:
        """Go on from what a core knew at that position. Raises whatever a core raises for what it did not write; it is
        then as it was."""
        restored = self._begin()
        restored.restore(core)
        self.core, self.position = restored, position
        self._revision = revision_of(position)

    def at(self, position: str) -> None:
        """What follows was written to the log at that position."""
        self._revision = max(self._revision, revision_of(position))

    def take(self, entry: workflow_pb2.LogEntry) -> None:
        """The next entry of the log."""
        began = time.perf_counter()
        now = self._clock()
        if (event := event_of(entry)) is None:
            metrics.SKIPPED.labels("unknown").inc()
        else:
            # By a clock that runs ahead the core would believe everybody to have been idle ever since.
            self._learn(entry, event, min(entry.at, now))
        metrics.ENTRY_SECONDS.observe(time.perf_counter() - began)
        metrics.LAG_SECONDS.observe(max(now - entry.at, 0.0))

    def advance(self, now: float) -> None:
        """Do what is due by then."""
        last = -1.0
        while (due := self.core.next_tick()) is not None and last < due <= now:
            last = due
            self._post(self._guarded(self.core.tick, due), due)

    def _learn(self, entry: workflow_pb2.LogEntry, event: Event, at: float) -> None:
        self.advance(at)
        self._post(self._guarded(self.core.handle, event, at), at)
        self._guarded(self.explainer.handle, event, at, detail_of(entry))
        if isinstance(event, ProgramOver):
            self.board.over(event.program_id)

    def _guarded(self, step: Callable[..., _T], *arguments: Any) -> _T | None:
        """What the step returns; None where it fails by a bug, which must not keep us from what comes after."""
        try:
            return step(*arguments)
        except Exception:
            _log.exception("an entry of the call log was not learned from")
            metrics.SKIPPED.labels("failed").inc()
            return None

    def _post(self, actions: Sequence[Foreseen] | None, at: float) -> None:
        for foreseen in actions or ():
            self._revision += 1
            self.board.post(foretold_of(foreseen, self._revision), at)
            metrics.FORECASTS.inc()


def revision_of(position: str) -> int:
    """Of the first forecast from there on: about the same in every instance, and greater than any before."""
    first, second = order(position)
    return (first << 22) + (second << 12)
