"""The scheduler's core: queues calls, places them on workers as late as possible, and keeps the programs' records.

Contract. Each call that was submitted is answered by exactly one Place per attempt, or one Reject, which ends it.
Placed calls per worker never exceed max_num_seqs + lookahead nor, with what they hold in the mean, the worker's KV
blocks (a call alone may), except by calls that gateways announce as running. All events are idempotent; unknown ids are
ignored. Memory is bounded by the limits and by what runs. One `handle` or `tick` makes at most one bounded dispatch
pass per model; `next_tick` asks for the rest at once.
"""

from math import inf
from typing import assert_never

from services.common.errors import Reason
from services.scheduler import events, invariants
from services.scheduler.calls import Calls
from services.scheduler.dispatch import Assignment, Dispatch, Refusal
from services.scheduler.eta import Eta
from services.scheduler.events import Action, Event, ProgramChanged, Reject, ReleaseProgram, Restarted
from services.scheduler.fleet import Fleet
from services.scheduler.foresight import Foresight
from services.scheduler.knowledge import Knowledge
from services.scheduler.limits import Limits
from services.scheduler.lobby import Lobby
from services.scheduler.placing import answer_again, place
from services.scheduler.policy import Policy
from services.scheduler.pools import Pools
from services.scheduler.programs import Programs
from services.scheduler.prospects import Facts
from services.scheduler.records import Call, Program, Worker
from services.scheduler.refusal import refusal, retry_seconds, unserved
from services.scheduler.residents import Residents
from services.scheduler.tenants import Tenants
from services.scheduler.waiting import WaitingRoom
from services.scheduler.workforce import Workforce

_AT_ONCE = 256
"""Bound on what one tick does of each kind."""


class Core:
    """`queue`, `fleet`, `pools`, `programs`, `tenants`, `residents`, `knowledge` and `calls` may be read by anyone."""

    def __init__(self, limits: Limits, policy: Policy) -> None:
        self.limits = limits
        self.pools = Pools(limits)
        self.residents = Residents(policy.admission, self.pools, limits.assumed_prefill_tokens_per_second)
        self.fleet = Fleet(limits, self.pools, self.residents.overflow_blocks)
        self.programs = Programs(limits)
        self.calls = Calls()
        self._waiting = WaitingRoom(policy.ordering)
        self.queue = self._waiting.queue
        self._lobby = Lobby(self._waiting, self.residents)
        self.knowledge = Knowledge(limits)
        self.tenants = Tenants(limits.tenant_weights)
        self._unsettled: dict[str, None] = {}  # models for which a dispatch pass might place something
        self._workforce = Workforce(self.fleet, self.residents, self._waiting, self.knowledge, limits, self._unsettled)
        self._foresight = Foresight(self.calls, self._waiting, self.residents, self.knowledge, self._unsettled)
        self._actions: list[Action] = []
        facts = Facts(self.fleet.index, self.pools, limits, policy.placement)
        self.dispatch = Dispatch(self.queue, self.fleet, facts)

    def handle(self, event: Event, now: float) -> list[Action]:
        match event:
            case events.CallSubmitted():
                self._submit(event, now)
            case events.CallStarted():
                self._start(event, now)
            case events.CallFinished():
                self._finish(event, now)
            case events.CallLost():
                self._lose(event, now)
            case events.CallHandedOff():
                self._hand_off(event, now)
            case events.ProgramEnded():
                self._end(event, now)
            case events.CallForeseen() | events.ForecasterLost():
                self._foresight.handle(event, now)
            case events.GatewayLost():
                self._unlink(event, now)
            case events.WorkerJoined():
                self._restart_all(self._workforce.join(event, now), now)
            case events.WorkerLost():
                self._restart_all(self._workforce.leave(event.worker_id, now), now)
            case events.LoadReported():
                self._workforce.report(event, now)
            case events.CacheReported():
                self.fleet.report_cache(event)
            case events.RoleChanged():
                self._workforce.change_role(event, now)
            case events.PoolJoined() | events.PoolReported() | events.PoolAway() | events.PoolLost():
                self.pools.handle(event)
            case events.FleetKnown():
                self._workforce.complete(now)
            case events.ProgramRestored():
                self.programs.restore(event, now)
            case _:
                assert_never(event)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        for key in self._waiting.timed_out(now, _AT_ONCE):
            self._reject(self.calls[key], Reason.QUEUE_TIMEOUT, "no worker had room in time", now)
        for call in self._waiting.given_up(now, _AT_ONCE):
            self._reject(call, Reason.NO_WORKER, "no worker that takes a prompt that long came", now)
        for model in self._waiting.stranded(now, _AT_ONCE):
            self._abandon(model, now)
        self._unsettled.update(dict.fromkeys(self._waiting.promote(now, _AT_ONCE)))
        self._foresight.expire(now, _AT_ONCE)
        self.residents.refresh(now, _AT_ONCE)
        self._unsettled.update(dict.fromkeys(self.queue.lobbies()))
        for program in self.programs.expire(now, _AT_ONCE):
            self._program_changed(program, now)
        return self._settle(now)

    def next_tick(self) -> float | None:
        if self._unsettled:
            return -inf
        dues = [each.next_due() for each in (self._waiting, self.programs, self._foresight)]
        dues.append(self.residents.next_due(self.queue.lobbies()))
        return min((due for due in dues if due is not None), default=None)

    def eta(self, program: Program, now: float) -> Eta:
        """When a program that has not ended will be done."""
        waits = program.num_queued > 0 and not program.num_running
        return self.knowledge.rest(program).eta(now, self._waiting.drain_seconds(now) if waits else 0.0)

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        invariants.check(self)

    def _settle(self, now: float) -> list[Action]:
        self.residents.refresh(now)
        models = list(self._unsettled)
        self._unsettled.clear()
        for model in models:
            self._dispatch(model, now)
        actions, self._actions = self._actions, []
        return actions

    def _submit(self, event: events.CallSubmitted, now: float) -> None:
        key = (event.program_id, event.call_id)
        if (call := self.calls.get(key)) is not None:
            speed = self.knowledge.engine_seconds.of(call.model)
            self._actions += answer_again(event, call, self.fleet.get(call.worker_id), speed)
            return
        running = event.attempt > 0 and event.worker_id != ""
        state = (self.fleet, self.queue, self.programs, self.knowledge, self.limits)
        refused = None if running else refusal(event, *state, now)
        if refused is not None:
            self._actions.append(Reject(event.link, *key, *refused, retry_seconds(refused[0], self._waiting, now)))
            return
        program = self.programs.start(event, self.tenants.get(event.tenant), now)
        call = Call(event, program, now)
        self.knowledge.begin(call, now)
        self.calls.add(call)
        if running:
            call.worker_id, call.restored = event.worker_id, True
            call.placed_at = call.expected_end = now
            program.num_running += 1
            program.restored = True
            if (worker := self.fleet.enter(call)) is not None:
                self.residents.place(call, worker, now)
        else:
            self._enqueue(call, now, event.queue_timeout_seconds)

    def _start(self, event: events.CallStarted, now: float) -> None:
        if (call := self.calls.live(event)) is not None and event.attempt in (0, call.attempt):
            self.fleet.start(call, now)

    def _finish(self, event: events.CallFinished, now: float) -> None:
        if (call := self.calls.live(event)) is None:
            return
        ran = call.worker_id and event.attempt in (0, call.attempt)
        seconds = now - call.placed_at if ran else 0.0
        if event.service_seconds:  # of all attempts: a prefill that was handed off is counted already
            seconds = max(0.0, event.service_seconds - call.executed_seconds)
        service_seconds = self.knowledge.service_seconds(call, event.usage, seconds)
        call.program.charge(call, seconds, service_seconds, event.usage)
        self.knowledge.learn(call, event.usage, event.completed, now)
        self.residents.end(call, event.usage, now)
        self.fleet.notes.ended(call, event.completed)
        self._forget(call, now)

    def _lose(self, event: events.CallLost, now: float) -> None:
        if (call := self.calls.left(event)) is None:
            return
        if (worker := self._vacate(call)) is not None:
            worker.lost(call)
        self._restart(call, now)

    def _hand_off(self, event: events.CallHandedOff, now: float) -> None:
        """The call is prefilled; what its gateway says counts, whether or not that was planned here."""
        if (call := self.calls.left(event)) is None:
            return
        worker = self._vacate(call)
        seconds = min(call.prefill_seconds or inf, now - call.placed_at)
        call.program.serve(call, seconds, seconds)
        call.prefilled_at = "" if worker is None else worker.description.pool_id
        call.handed_off = True
        self._enqueue_again(call, now)

    def _end(self, event: events.ProgramEnded, now: float) -> None:
        if (program := self.programs.get(event.program_id)) is not None:
            program.ending = True
            self.programs.settle(program, now)
            self._program_changed(program, now)

    def _unlink(self, event: events.GatewayLost, now: float) -> None:
        for call in self.calls.of_link(event.link):
            call.program.num_lost += bool(call.worker_id)
            self._forget(call, now)

    def _dispatch(self, model: str, now: float) -> None:
        if self.fleet.serving(model) and self._lobby.admit(model, now, self.limits.scan_limit):
            self._unsettled[model] = None
        longest, speed = self.fleet.longest_prompt(model), self.knowledge.engine_seconds.of(model)
        for decision in self.dispatch.decide(model, now):
            if isinstance(decision, Assignment):
                self._actions += place(decision, self._waiting, self.pools, self.fleet.notes, speed, now)
                self.residents.place(decision.call, decision.worker, now)
                self.knowledge.placed(decision.call)
            elif isinstance(decision, Refusal):
                self._reject(decision.call, Reason.QUEUE_FULL, "no worker would answer in time", now)
            elif longest is not None and decision.prompt_tokens > longest:
                self._reject(decision, Reason.CONTEXT_LENGTH_EXCEEDED, "no worker takes a prompt that long", now)
            else:  # the worker that takes it may be away
                self._waiting.shelve(decision, now + self.limits.no_worker_grace_seconds)
        if self.dispatch.pending(model):
            self._unsettled[model] = None

    def _enqueue(self, call: Call, now: float, timeout_seconds: float = 0.0) -> None:
        call.expected = self.knowledge.expect(call, now)
        self._lobby.enter(call, now, timeout_seconds)
        self._workforce.want(call.model, now)

    def _vacate(self, call: Call) -> Worker | None:
        """Take a placed call off its worker, which is returned if it is known."""
        call.program.num_running -= 1
        if (worker := self.fleet.release(call)) is not None:
            self._unsettled[call.model] = None
        return worker

    def _restart(self, call: Call, now: float) -> None:
        """A call that is off the ledger goes back to the queue."""
        call.program.num_restarted += 1
        if (num_lost := call.attempt - call.handed_off) >= self.limits.max_attempts:
            message = f"the call lost its worker {num_lost} times"
            self._actions.append(Reject(call.link, *call.key, Reason.ENGINE_DEAD, message))
            self._erase(call, now)
            return
        self._actions.append(Restarted(*call.key))
        self._enqueue_again(call, now)

    def _restart_all(self, calls: list[Call], now: float) -> None:
        """One after the other: a program must not seem idle, and end, while some of its calls wait for their turn."""
        for call in calls:
            call.program.num_running -= 1
            self._restart(call, now)

    def _enqueue_again(self, call: Call, now: float) -> None:
        call.restored = call.hand_off = False
        call.expected_output = self.knowledge.output_tokens(call)
        self._enqueue(call, now)

    def _abandon(self, model: str, now: float) -> None:
        """No worker came for the model in time."""
        for call in [*self.queue.front(model, _AT_ONCE), *self.queue.lobby(model, _AT_ONCE)]:
            self._reject(call, *unserved(model, self.fleet), now)
        if self.queue.of_model(model):
            self._waiting.strand(model, now)

    def _reject(self, call: Call, reason: Reason, message: str, now: float) -> None:
        self._actions.append(Reject(call.link, *call.key, reason, message, retry_seconds(reason, self._waiting, now)))
        self._forget(call, now)

    def _forget(self, call: Call, now: float) -> None:
        if call.worker_id:
            self._vacate(call)
        else:
            self._lobby.leave(call, now)
            self._unsettled[call.model] = None  # another call moves into sight, or gets the KV that was kept for it
        self._erase(call, now)

    def _erase(self, call: Call, now: float) -> None:
        self.knowledge.left(call, now)
        self.residents.rest(call, now)
        self.calls.remove(call)
        self.programs.settle(call.program, now)
        self._program_changed(call.program, now)

    def _program_changed(self, program: Program, now: float) -> None:
        if program.ending or program.ended is not None:
            self._unsettled.update(dict.fromkeys(self.residents.release(program, now)))
        if program.ended is not None:
            self.knowledge.ended(program, now)
        completed = program.ended - program.started if program.ending and program.ended is not None else None
        self._actions.append(ProgramChanged(program.program_id, completed))
        if pool_ids := self.programs.left_pools(program, self.pools.ids()):
            self._actions.append(ReleaseProgram(program.program_id, pool_ids))
