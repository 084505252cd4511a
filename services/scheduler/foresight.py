"""Foresight: what follows when the workflow service says something of a call, or what it said holds no longer.

The call's expectations are made anew and, if it waits, it is ranked anew; an idle context is weighed by the new law of
return. Without a workflow service nothing here does anything, and what has expired is as if it had not been said: the
laws learned here count.
"""

from typing import assert_never

from services.common.laws import Law
from services.scheduler.calls import Calls
from services.scheduler.events import CallForeseen, ForecasterLost
from services.scheduler.forecasts import Thread, thread_of
from services.scheduler.knowledge import Knowledge
from services.scheduler.records import Call
from services.scheduler.residents import Residents
from services.scheduler.waiting import WaitingRoom


class Foresight:
    """Keeps nothing. `unsettled`: where it enters models for which placement may do something now."""

    def __init__(
        self,
        calls: Calls,
        waiting: WaitingRoom,
        residents: Residents,
        knowledge: Knowledge,
        unsettled: dict[str, None],
    ) -> None:
        self._calls = calls
        self._waiting = waiting
        self._residents = residents
        self._knowledge = knowledge
        self._forecasts = knowledge.forecasts
        self._unsettled = unsettled

    def handle(self, event: CallForeseen | ForecasterLost, now: float) -> None:
        """The workflow service says something, or is gone."""
        match event:
            case CallForeseen():
                self._hear(event, now)
            case ForecasterLost():
                self._forecasts.lost(now)
            case _:
                assert_never(event)

    def expire(self, now: float, limit: int) -> None:
        """What was said and holds no longer is taken back, at most so much at once."""
        calls, threads = self._forecasts.expired(now, limit)
        for call in calls:
            self._revise(call, now)
        for thread in threads:
            self._weigh_anew(thread, None, now)

    def next_due(self) -> float | None:
        """When something expires."""
        return self._forecasts.next_due()

    def _hear(self, event: CallForeseen, now: float) -> None:
        call = self._calls.get((event.program_id, event.call_id)) if event.call_id else None
        if not self._forecasts.hear(event, call, now):
            return
        if call is not None:
            self._revise(call, now)
        elif not event.call_id:
            self._weigh_anew(thread_of(event.program_id, event.thread, event.agent), event.forecast.returns, now)

    def _weigh_anew(self, thread: Thread, returns: Law | None, now: float) -> None:
        models, lobbies = self._residents.foresee(*thread, returns, now), self._waiting.queue.lobbies()
        self._unsettled.update(dict.fromkeys(model for model in models if model in lobbies))

    def _revise(self, call: Call, now: float) -> None:
        if call.worker_id:
            self._knowledge.revise(call, now)
            return
        with self._waiting.reordered(call, now):
            self._knowledge.revise(call, now)
        self._residents.remeasure(call, now)
        self._unsettled[call.model] = None
