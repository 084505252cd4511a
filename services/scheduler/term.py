"""Term: one time of leading. The core with its driver, the gateways' links and what is known of the workers and pools.

It begins empty, but for what the archive remembers: gateways announce their calls again, workers report anew. What it
decides carries its number, the fencing token of the election: nobody who has heard of a later term obeys it.
"""

import itertools
import logging
import time
from dataclasses import dataclass
from typing import assert_never

from legato.v1 import kvpool_pb2_grpc, worker_pb2
from services.common.clock import LoopClock
from services.common.driver import Driver
from services.common.errors import Failure, Reason
from services.common.registry import Leadership
from services.common.terms import plausible
from services.scheduler import metrics
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.errands import Errands
from services.scheduler.eta import Eta
from services.scheduler.events import (
    Action,
    Event,
    GatewayLost,
    Place,
    ProgramChanged,
    ProgramRestored,
    Reject,
    Restarted,
)
from services.scheduler.outbox import Outbox
from services.scheduler.pool_events import Prefetch, ReleaseProgram
from services.scheduler.records import Program

_log = logging.getLogger(__name__)

_TERM_DIGITS = 20
NOT_LEADER = "another scheduler leads"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's stream."""

    link: int
    gateway_id: str
    outbox: Outbox


@dataclass(slots=True)
class WorkerReport:
    """The last that a worker said."""

    description: worker_pb2.WorkerDescription
    load: worker_pb2.Load
    address: str


@dataclass(slots=True)
class PoolLink:
    """A KV pool that the registry lists."""

    pool_id: str
    errands: Errands
    stub: kvpool_pb2_grpc.KVPoolServiceStub | None = None
    """None: it has not been called yet."""


class Term:
    """Everything runs on the event loop's thread. After `end` nothing goes out and only the past is taken in."""

    def __init__(self, settings: SchedulerSection, leadership: Leadership) -> None:
        self.number = leadership.term
        self._leadership = leadership
        self._clock = LoopClock()
        self.core = Core(settings.limits(), settings.load_policy())
        self.epoch = time.time() - self._clock.now()
        """Unix time at the origin of the core's clock."""
        self.reports: dict[str, WorkerReport] = {}
        self.pools: dict[str, PoolLink] = {}
        self.unsaved: dict[str, None] = {}
        """Programs that changed since they were last written; bounded by the archive."""
        self._driver: Driver[Event, Action] = Driver(self.core, self._clock, self._perform)
        self._links = itertools.count(1)
        self._gateways: dict[int, Gateway] = {}
        self._ended = False
        metrics.PAUSED.set_function(lambda: sum(program.paused for program in self.core.programs.live()))

    def feed(self, event: Event) -> None:
        """Let something happen."""
        if not self._ended:
            self._driver.feed(event)
            metrics.QUEUE_LENGTH.set(len(self.core.queue))
            metrics.PROGRAMS.set(len(self.core.programs))

    def restore(self, event: ProgramRestored) -> None:
        """What an earlier term knew of a program. Taken in after the end too: its record is written once more then."""
        if self._ended:
            self.core.programs.restore(event, self._clock.now())
        else:
            self.feed(event)

    def hear(self, gateway: Gateway, event: Event) -> None:
        """A gateway says something. What it said before its stream ended and comes to light after is void."""
        if gateway.link in self._gateways:
            self.feed(event)

    def eta(self, program: Program) -> Eta | None:
        """When a program is expected to be complete; None for one that is."""
        return None if program.ended is not None else self.core.eta(program, self._clock.now())

    def open(self, gateway_id: str) -> Gateway:
        """A gateway's stream began. An older one of the same gateway is over: it broke, and this end did not notice.

        Raises Failure when the term is over.
        """
        if self._ended:
            raise Failure(Reason.NOT_LEADER, NOT_LEADER)
        for gateway in list(self._gateways.values()):
            if gateway.gateway_id == gateway_id:
                gateway.outbox.close()
                self.close(gateway)
        gateway = Gateway(next(self._links), gateway_id, Outbox(self.number))
        self._gateways[gateway.link] = gateway
        return gateway

    def close(self, gateway: Gateway) -> None:
        """A gateway's stream ended. Harmless when it was closed before."""
        if self._gateways.pop(gateway.link, None) is not None:
            self.feed(GatewayLost(gateway.link))

    def overtake(self, later: int) -> None:
        """Somebody has heard of a later term: this one is over, whatever the registry says."""
        if not plausible(later, self.number):
            _log.warning("a term %d cannot be: this is term %d", later, self.number)
            return
        self.end()
        self._leadership.overtake(later)

    def heed(self, failure: Failure) -> None:
        """What a worker answered: it may have heard of a later term."""
        if failure.reason is Reason.STALE_TERM:
            said = failure.metadata.get("term", "")
            if said.isdecimal() and len(said) <= _TERM_DIGITS:
                self.overtake(int(said))

    def end(self) -> None:
        """The term is over: all streams end with NOT_LEADER."""
        self._ended = True
        self._driver.close()
        for gateway in self._gateways.values():
            gateway.outbox.fail(Failure(Reason.NOT_LEADER, NOT_LEADER))
        metrics.QUEUE_LENGTH.set(0)
        metrics.PROGRAMS.set(0)
        metrics.PAUSED.set_function(lambda: 0)

    def _perform(self, action: Action) -> None:
        match action:
            case Place():
                metrics.PLACEMENTS.inc()
                metrics.HAND_OFFS.inc(action.kv.hand_off)
                metrics.QUEUE_SECONDS.observe(action.waited_seconds)
                self._send(action)
            case Reject():
                metrics.REJECTIONS.labels(action.reason.name).inc()
                self._send(action)
            case Restarted():
                metrics.RESTARTS.inc()
            case ProgramChanged():
                self.unsaved[action.program_id] = None
                if action.completed_seconds is not None:
                    metrics.PROGRAM_SECONDS.observe(action.completed_seconds)
            case Prefetch():
                if (link := self.pools.get(action.pool_id)) is not None:
                    link.errands.prefetch(action)
            case ReleaseProgram():
                for pool_id in action.pool_ids:
                    if (link := self.pools.get(pool_id)) is not None:
                        link.errands.release(action.program_id)
            case _:
                assert_never(action)

    def _send(self, action: Place | Reject) -> None:
        if (gateway := self._gateways.get(action.link)) is not None:
            program = self.core.programs.get(action.program_id) if isinstance(action, Place) else None
            gateway.outbox.put(action, program and self.eta(program))
