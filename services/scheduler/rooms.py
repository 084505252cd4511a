"""Rooms: the workers in the order of what room admission sees there, and those that rest, by model.

Each change costs O(log n); nothing is ordered before somebody asks.
"""

from collections.abc import Iterable, Iterator
from math import inf

from services.common.agenda import Agenda
from services.scheduler.admission import Admission
from services.scheduler.ledger import Ledger


class Rooms:
    """Bounded by the workers that live."""

    def __init__(self, policy: Admission) -> None:
        self._policy = policy
        self._ledgers: dict[str, Ledger] = {}
        self._order: dict[str, Agenda[str]] = {}
        """The roomiest first."""
        self._rests: dict[str, Agenda[str]] = {}
        """Those that run nothing: when each has had its patience."""
        self._touched: dict[str, dict[str, None]] = {}
        """Those that have changed since they were put in order."""

    def touch(self, ledger: Ledger, now: float) -> None:
        """Something on the ledger changed."""
        worker_id = ledger.worker_id
        self._ledgers[worker_id] = ledger
        self._touched.setdefault(ledger.model, {})[worker_id] = None
        rests = self._rests.setdefault(ledger.model, Agenda())
        if ledger.num_live:
            ledger.rested_since = inf
        else:
            ledger.rested_since = min(ledger.rested_since, now)
        if ledger.open and not ledger.num_live:
            rests.set(worker_id, ledger.rested_since + (self._policy.patience_seconds if ledger.programs else 0.0))
        else:
            rests.discard(worker_id)

    def leave(self, ledger: Ledger) -> None:
        """The worker is gone."""
        self._touched[ledger.model].pop(ledger.worker_id, None)
        self._rests[ledger.model].discard(ledger.worker_id)
        if (order := self._order.get(ledger.model)) is not None:
            order.discard(ledger.worker_id)
        del self._ledgers[ledger.worker_id]

    def touched(self) -> list[Ledger]:
        """Those that changed."""
        return [self._ledgers[worker_id] for ids in self._touched.values() for worker_id in ids]

    def roomiest(self, model: str) -> Ledger | None:
        """The open worker of the model with most room."""
        order = self._order.setdefault(model, Agenda())
        touched = self._touched.get(model, {})
        while touched:
            worker_id, _ = touched.popitem()
            ledger = self._ledgers[worker_id]
            if ledger.open:
                order.set(worker_id, -self._policy.room(ledger))
            else:
                order.discard(worker_id)
        worker_id = order.first()
        return None if worker_id is None else self._ledgers[worker_id]

    def rested(self, model: str, now: float) -> Ledger | None:
        """A worker of the model that has run nothing for long enough to take whoever comes."""
        rests = self._rests.get(model)
        if rests is None or (due := rests.next()) is None or due > now:
            return None
        worker_id = rests.first()
        return None if worker_id is None else self._ledgers[worker_id]

    def next_due(self, models: Iterable[str]) -> Iterator[float]:
        """When the next worker of each model has rested for long enough."""
        for model in models:
            rests = self._rests.get(model)
            if rests is not None and (due := rests.next()) is not None:
                yield due
