"""Workforce: what follows when workers come, go, report or change their role; calls that lose theirs are the core's."""

from services.scheduler.events import LoadReported, WorkerJoined
from services.scheduler.fleet import Fleet
from services.scheduler.knowledge import Knowledge
from services.scheduler.limits import Limits
from services.scheduler.pool_events import RoleChanged
from services.scheduler.records import Call
from services.scheduler.residents import Residents
from services.scheduler.waiting import WaitingRoom


class Workforce:
    """Keeps nothing. `unsettled`: where it enters models for which placement may do something now."""

    def __init__(
        self,
        fleet: Fleet,
        residents: Residents,
        waiting: WaitingRoom,
        knowledge: Knowledge,
        limits: Limits,
        unsettled: dict[str, None],
    ) -> None:
        self._fleet = fleet
        self._residents = residents
        self._waiting = waiting
        self._knowledge = knowledge
        self._limits = limits
        self._unsettled = unsettled

    def join(self, event: WorkerJoined, now: float) -> list[Call]:
        """A worker answered; the calls of the one that had its id before, which still count as running."""
        lost = self.leave(event.worker_id, now)
        self._residents.join(self._fleet.join(event), now)
        if event.load is not None:
            self._knowledge.engine_seconds.report(event.model, event.load)
        self._look_again(event.model, now)
        return lost

    def leave(self, worker_id: str, now: float) -> list[Call]:
        """A worker is gone; its calls, which still count as running."""
        if (worker := self._fleet.leave(worker_id)) is None:
            return []
        self._residents.leave(worker_id, now)
        self._changed(worker.description.model, now)
        return list(worker.placed.values())

    def report(self, event: LoadReported, now: float) -> None:
        """A worker's counters."""
        if (worker := self._fleet.get(event.worker_id)) is None:
            return
        self._knowledge.engine_seconds.report(worker.description.model, event)
        if (model := self._fleet.report_load(event, self._limits.lookahead_calls)) is not None:
            self._residents.change(event.worker_id, now)
            self._changed(model, now)

    def change_role(self, event: RoleChanged, now: float) -> None:
        """A worker does something else from now on."""
        if (model := self._fleet.change_role(event)) is not None:
            self._residents.change(event.worker_id, now)
            self._look_again(model, now)

    def complete(self, now: float) -> None:
        """Every worker that was registered at the start has joined or failed to."""
        self._fleet.known = True
        for model in self._waiting.queue.shelves():
            self._look_again(model, now)

    def want(self, model: str, now: float) -> None:
        """A call of the model was queued."""
        if self._fleet.serving(model):
            self._unsettled[model] = None
        else:
            self._waiting.strand(model, now + self._limits.no_worker_grace_seconds)

    def _look_again(self, model: str, now: float) -> None:
        """What was too long may be short enough now, or certainly too long."""
        self._waiting.unshelve(model)
        self._changed(model, now)

    def _changed(self, model: str, now: float) -> None:
        if self._fleet.serving(model):
            self._waiting.relieve(model)
        elif self._waiting.queue.of_model(model):
            self._waiting.strand(model, now + self._limits.no_worker_grace_seconds)
        self._unsettled[model] = None
