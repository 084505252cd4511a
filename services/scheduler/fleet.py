"""Fleet: the workers, by model, and which models were ever served.

Bounded by the workers that live; models are remembered for good (there are as many as names were deployed).
"""

from collections.abc import Iterable
from dataclasses import replace

from services.scheduler.cache_index import CacheIndex
from services.scheduler.cache_note import CacheNotes
from services.scheduler.events import CacheReported, CallKey, LoadReported, WorkerJoined
from services.scheduler.limits import Limits
from services.scheduler.outlook import Outlook, Overflow
from services.scheduler.pool_events import RoleChanged
from services.scheduler.pools import Pools
from services.scheduler.records import Call, Worker
from services.scheduler.roster import Roster


class Fleet:
    """Also holds the calls that were announced as running on workers not (yet) known here: `adrift`."""

    def __init__(self, limits: Limits, pools: Pools, overflow: Overflow) -> None:
        self._limits = limits
        self._pools = pools
        self._overflow = overflow
        self.known = False
        """Every worker registered at the start has been heard of."""
        self.index = CacheIndex()
        self.notes = CacheNotes(self.index)
        self._workers: dict[str, Worker] = {}
        self._models: dict[str, dict[str, Worker]] = {}
        self._rosters: dict[str, Roster] = {}
        self._num_joined = 0
        self._longest: dict[str, int] = {}
        """Tokens of the longest prompt that a worker of the model ever took."""
        self._adrift: dict[str, dict[CallKey, Call]] = {}

    def get(self, worker_id: str) -> Worker | None:
        """The worker of that id."""
        return self._workers.get(worker_id)

    def workers(self) -> list[Worker]:
        """All, in order of their id."""
        return [self._workers[worker_id] for worker_id in sorted(self._workers)]

    def serving(self, model: str) -> bool:
        """Some worker of the model takes new calls."""
        return bool(self._rosters.get(model))

    def roster(self, model: str) -> Roster | None:
        """The workers of the model that take new calls. None: there never was a worker."""
        return self._rosters.get(model)

    def longest_prompt(self, model: str) -> int | None:
        """Tokens of the longest prompt that a worker of the model ever took; None while that is not certain."""
        return self._longest.get(model) if self.known else None

    def unknown(self, model: str) -> bool:
        """No worker ever served the model, and that is certain."""
        return self.known and bool(self._models) and model not in self._models

    def join(self, event: WorkerJoined) -> Worker:
        """Enter a worker, with the calls that are said to run there."""
        load = event.load or LoadReported(event.worker_id)
        worker = Worker(replace(event, cached_blocks=()), load, unclaimed=load.num_running + load.num_waiting)
        self._workers[event.worker_id] = worker
        self._models.setdefault(event.model, {})[event.worker_id] = worker
        self._longest[event.model] = max(event.max_model_len - 1, self._longest.get(event.model, 0))
        self.index.join(event.worker_id, event.num_blocks, event.block_size)
        self.notes.join(event.worker_id)
        self.index.update(event.worker_id, event.cached_blocks, (), reset=False)
        for call in self._adrift.pop(event.worker_id, {}).values():
            worker.claim(call)
        self._enlist(worker)
        return worker

    def leave(self, worker_id: str) -> Worker | None:
        """Take a worker out; its calls are the caller's business."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            del self._models[worker.description.model][worker_id]
            self._rosters[worker.description.model].leave(worker_id)
            self.index.leave(worker_id)
            self.notes.leave(worker_id)
        return worker

    def change_role(self, event: RoleChanged) -> str | None:
        """Take in a worker's new role; its model, if it has another than before."""
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.description.role is event.role:
            return None
        worker.description = replace(worker.description, role=event.role)
        self._enlist(worker)
        return worker.description.model

    def report_load(self, event: LoadReported, lookahead_calls: int) -> str | None:
        """Take in a load report; the model, if more can be placed by it or the worker began to drain."""
        worker = self._workers.get(event.worker_id)
        if worker is None:
            return None
        shunned = worker.shunned
        before = worker.open(lookahead_calls), worker.load.draining, worker.unclaimed
        worker.report(event)
        after = worker.open(lookahead_calls), event.draining, worker.unclaimed
        if before[1] != event.draining:
            self._enlist(worker)
        roster = self._rosters[worker.description.model]
        if (outlook := roster.outlooks.get(event.worker_id)) is not None:
            outlook.reported()
            if shunned or before != after:
                roster.freed[outlook] = None
        return worker.description.model if shunned or before != after else None

    def report_cache(self, event: CacheReported) -> None:
        """Take in changes of a worker's prefix cache."""
        self.index.update(event.worker_id, event.stored, event.removed, event.reset)
        self.notes.removed(event.worker_id, event.removed, event.reset)

    def start(self, call: Call, now: float) -> None:
        """The call's prefill is done, where it was placed."""
        if (worker := self._workers.get(call.worker_id)) is not None:
            step_seconds = worker.load.step_seconds or self._limits.assumed_step_seconds
            worker.start(call, now + call.remaining_output * step_seconds)

    def enter(self, call: Call) -> Worker | None:
        """Put a call on the ledger of the worker where its gateway says it runs; that, if it is known."""
        worker = self._workers.get(call.worker_id)
        if worker is None:
            self._adrift.setdefault(call.worker_id, {})[call.key] = call
        else:
            worker.claim(call)
        return worker

    def release(self, call: Call) -> Worker | None:
        """Take a placed call off the ledger; the worker, if it is known."""
        worker = self._workers.get(call.worker_id)
        if worker is not None:
            worker.release(call)
            roster = self._rosters[worker.description.model]
            if (outlook := roster.outlooks.get(worker.worker_id)) is not None:
                roster.freed[outlook] = None
            return worker
        adrift = self._adrift[call.worker_id]
        del adrift[call.key]
        if not adrift:
            del self._adrift[call.worker_id]
        return None

    def adrift(self) -> Iterable[Call]:
        """Calls announced as running on workers that are not known."""
        return [call for calls in self._adrift.values() for call in calls.values()]

    def _enlist(self, worker: Worker) -> None:
        """It takes calls, or takes them for another purpose than before, or takes none any more."""
        roster = self._rosters.setdefault(worker.description.model, Roster())
        roster.leave(worker.worker_id)
        if not worker.load.draining:
            worker.changes, worker.changed = roster.changes, False
            self._num_joined += 1
            roster.join(Outlook(worker, self._num_joined, self._limits, self._pools, self._overflow))
