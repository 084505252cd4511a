"""WaitingRoom: the queue with everything that is due for calls in it, and the accounts of their waiting."""

from collections.abc import Generator
from contextlib import contextmanager
from math import inf

from services.common.agenda import Agenda
from services.scheduler.events import CallKey
from services.scheduler.expectation import DrainRate
from services.scheduler.ordering import Ordering
from services.scheduler.queue import CallQueue
from services.scheduler.records import Call


class WaitingRoom:
    """Bounded as the queue is: a few entries per waiting call, one per model without workers."""

    def __init__(self, ordering: Ordering) -> None:
        self.queue = CallQueue(ordering)
        self._timeouts: Agenda[CallKey] = Agenda()
        self._promotions: Agenda[Call] = Agenda()
        self._strandings: Agenda[str] = Agenda()
        self._shelvings: Agenda[Call] = Agenda()
        self._drain = DrainRate()

    def enter(self, call: Call, now: float, timeout_seconds: float) -> int:
        """Let a call in, for at most so long (0: for ever); how many calls of its model go before it."""
        call.worker_id = ""
        call.queued_at = call.waiting_since = now
        call.program.num_queued += 1
        position = self.queue.push(call)
        if timeout_seconds > 0:
            self._timeouts.set(call.key, now + timeout_seconds)
        self._await_promotion(call, now)
        return position

    @contextmanager
    def reordered(self, call: Call, now: float) -> Generator[None]:
        """What is believed of a waiting call changes inside."""
        with self.queue.reordered(call):
            yield
        self._await_promotion(call, now)

    def leave(self, call: Call, now: float) -> int:
        """Take a call out: placed, rejected or forgotten; how many calls of its model went before it."""
        position = self.queue.remove(call)
        call.shelved = False
        self._timeouts.discard(call.key)
        self._promotions.discard(call)
        self._shelvings.discard(call)
        self._drain.count(now)
        call.program.num_queued -= 1
        call.program.waited_seconds += now - call.waiting_since
        call.program.queue_seconds += now - call.queued_at
        return position

    def shelve(self, call: Call, until: float) -> None:
        """No worker takes the call, but one may come: it gives way to others, and `given_up` names it at `until`."""
        self.queue.shelve(call, True)
        if call not in self._shelvings:
            self._shelvings.set(call, until)

    def unshelve(self, model: str) -> None:
        """Look again at the model's shelved calls."""
        for call in self.queue.shelf(model):
            self.queue.shelve(call, False)

    def strand(self, model: str, until: float) -> None:
        """The model has no worker: `stranded` names it at `until`, unless an earlier time is set."""
        if model not in self._strandings:
            self._strandings.set(model, until)

    def relieve(self, model: str) -> None:
        """The model has a worker."""
        self._strandings.discard(model)

    def retry_after_seconds(self, now: float) -> float:
        """When a rejected call has a chance to get in."""
        return self._drain.retry_after_seconds(len(self.queue), now)

    def drain_seconds(self, now: float) -> float:
        """In which all that wait now will have left, as fast as calls leave now; 0: not known."""
        return self._drain.drain_seconds(len(self.queue), now)

    def next_due(self) -> float | None:
        """When something here is due."""
        agendas = (self._timeouts, self._promotions, self._strandings, self._shelvings)
        return min((due for agenda in agendas if (due := agenda.next()) is not None), default=None)

    def timed_out(self, now: float, limit: int) -> list[CallKey]:
        """Calls whose time is up; the caller takes them out."""
        return self._timeouts.pop_due(now, limit)

    def given_up(self, now: float, limit: int) -> list[Call]:
        """Calls that were shelved for too long; the caller takes them out."""
        return [call for call in self._shelvings.pop_due(now, limit) if call.shelved]

    def stranded(self, now: float, limit: int) -> list[str]:
        """Models that have been without a worker for too long."""
        return self._strandings.pop_due(now, limit)

    def promote(self, now: float, limit: int) -> set[str]:
        """Move calls that starved to the front of the queue; their models."""
        models: set[str] = set()
        for call in self._promotions.pop_due(now, limit):
            # What the program was served meanwhile may have moved the moment.
            if self.queue.promotes_at(call) > now:
                self._await_promotion(call, now)
            else:
                self.queue.promote(call, now)
                models.add(call.model)
        return models

    def _await_promotion(self, call: Call, now: float) -> None:
        if (due := self.queue.promotes_at(call)) < inf:
            self._promotions.set(call, max(due, now))
        else:
            self._promotions.discard(call)
