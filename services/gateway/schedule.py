"""The one Schedule stream to the scheduler that leads.

Calls are submitted and their placements handed to them. The stream is made again whenever it ends, with the same or
another scheduler; every call that is still alive is announced anew then, running ones with the place where they run.
Whoever leads says so at once: only then there is a scheduler.
So nothing else has to be remembered while there is no stream: what is said meanwhile is in the announcements. When
there has been none for `grace_seconds`, calls without a place are refused until there is one.

Schedulers lead in terms (docs/decisions/0015). Whoever leads an earlier term than the latest that was heard of, from
the registry, from a scheduler or from a worker, leads no more: it is left, and not talked to again.

What waits to be sent is bounded by the calls: each has a handful of events in its life.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import grpc

from legato.v1 import call_pb2, scheduler_pb2, scheduler_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason, reason_named
from services.common.terms import plausible
from services.gateway import metrics
from services.gateway.call import Call
from services.gateway.neighbours import CallKey
from services.gateway.stream_end import stream_end

_log = logging.getLogger(__name__)

_Stream: TypeAlias = "grpc.aio.StreamStreamCall[scheduler_pb2.ScheduleRequest, scheduler_pb2.ScheduleResponse]"
_Event = scheduler_pb2.GatewayEvent

_BATCH_EVENTS = 256
_CONNECT_SECONDS = 3.0
_RETRY_AFTER_SECONDS = 1.0


class Scheduler:
    """What calls say to the scheduler and hear from it. `gateway_id`: unique for each life of this process."""

    def __init__(self, gateway_id: str, grace_seconds: float) -> None:
        self._gateway_id = gateway_id
        self._grace_seconds = grace_seconds
        self._calls: dict[CallKey, Call] = {}
        self._outbox: list[_Event] = []
        self._wake = asyncio.Event()
        self._stub: scheduler_pb2_grpc.SchedulerServiceStub | None = None
        self._address = ""
        """Of the scheduler that is talked to, or called."""
        self._stay: asyncio.Timeout | None = None
        self._term = 0
        """Of the stream; 0: not known."""
        self._latest_term = 0
        """That was heard of."""
        self._away_since: float | None = None
        """When the last one who led was lost; None: there is one."""
        self._given_up = False
        self._grace: asyncio.TimerHandle | None = None
        """Runs while nobody leads."""
        self._closed = False
        self._await_leader()

    @property
    def stub(self) -> scheduler_pb2_grpc.SchedulerServiceStub:
        """The scheduler that leads. Raises Failure when there is none."""
        if self._stub is None or not self.connected:
            raise no_scheduler()
        return self._stub

    @property
    def connected(self) -> bool:
        return self._away_since is None

    def knows(self, key: CallKey) -> bool:
        """Whether a live call has that key."""
        return key in self._calls

    def submit(self, call: Call) -> None:
        self._calls[call.key] = call
        if self._given_up:
            call.on_rejection(no_scheduler())
        elif self._stub is not None:
            self._send(_Event(submit=call.announcement()))

    def first_token(self, key: CallKey, attempt: int) -> None:
        first = scheduler_pb2.FirstToken(program_id=key[0], call_id=key[1], attempt=attempt)
        self._send(_Event(first_token=first))

    def lose(self, key: CallKey, attempt: int, generated_tokens: int) -> None:
        if self._given_up:
            self._calls[key].on_rejection(no_scheduler())
            return
        lost = scheduler_pb2.LoseCall(
            program_id=key[0], call_id=key[1], attempt=attempt, generated_tokens=generated_tokens
        )
        self._send(_Event(lose=lost))

    def hand_off(self, key: CallKey, attempt: int, generated_tokens: int) -> bool:
        """False: there is no stream to say it on. One that breaks later does no harm: the call is announced anew."""
        if self._stub is None:
            return False
        handed = scheduler_pb2.HandOffCall(
            program_id=key[0], call_id=key[1], attempt=attempt, generated_tokens=generated_tokens
        )
        self._send(_Event(hand_off=handed))
        return True

    def finish(self, finished: scheduler_pb2.FinishCall) -> None:
        self._calls.pop((finished.program_id, finished.call_id), None)
        self._send(_Event(finish=finished))

    def end_program(self, program_id: str) -> None:
        """Raises Failure when there is no scheduler to tell."""
        if not self.connected:
            raise no_scheduler()
        self._send(_Event(end_program=scheduler_pb2.EndProgram(program_id=program_id)))

    def outgrow(self, term: int, address: str = "") -> None:
        """Somebody leads, or led, in that term, there if that is known: one of an earlier term is left, and so is one
        elsewhere who has not said which is his."""
        if not plausible(term, self._latest_term):
            _log.warning("a term %d cannot be: the latest is %d", term, self._latest_term)
            return
        self._latest_term = max(self._latest_term, term)
        behind = self._term < self._latest_term if self._term else address not in ("", self._address)
        if self._stay is not None and behind and self._stay.when() is None:  # else it is being left already
            _log.info(
                "leaving scheduler %s of term %d: there is a term %d", self._address, self._term, self._latest_term
            )
            self._stay.reschedule(asyncio.get_running_loop().time())

    async def converse(self, address: str) -> None:
        """Talk to the scheduler at `address` until the stream ends. Raises Failure if it ended badly."""
        self._address = address
        try:
            with stream_end(f"scheduler {address}"):
                async with asyncio.timeout(None) as self._stay, rpc.channel(address, "scheduler") as channel:
                    await _connect(channel)
                    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                    await self._exchange(stub, stub.Schedule())
        finally:
            if self.connected and not self._closed:
                if self._stay is not None and self._stay.when() is None:  # else it was left
                    _log.warning("scheduler %s is lost", address)
                self._await_leader()
            self._stub = self._stay = None
            self._term = 0
            self._outbox.clear()

    async def _exchange(self, stub: scheduler_pb2_grpc.SchedulerServiceStub, stream: _Stream) -> None:
        self._stub = stub  # before the announcements are gathered: what happens from here on is said behind them
        async with asyncio.TaskGroup() as tasks:
            self._outbox = [_Event(hello=scheduler_pb2.Hello(gateway_id=self._gateway_id, term=self._latest_term))]
            self._outbox += [_Event(submit=call.announcement()) for call in self._calls.values()]
            writer = tasks.create_task(self._write(stream))
            async for response in stream:
                self._hear_leader(response.term)
                for event in response.events:
                    self._on_event(event)
            writer.cancel()

    async def _write(self, stream: _Stream) -> None:
        while True:
            events, self._outbox = self._outbox, []
            for batch in _batches(events):
                await stream.write(scheduler_pb2.ScheduleRequest(events=batch))
            if not self._outbox:
                self._wake.clear()
                await self._wake.wait()

    def _hear_leader(self, term: int) -> None:
        """Whoever is at the other end leads that term; 0: which is not known. Raises Failure when it is over."""
        if 0 < term < self._latest_term:
            raise Failure(Reason.STALE_TERM, f"it leads term {term}, and there is a term {self._latest_term}")
        self._term = term
        self._latest_term = max(self._latest_term, term)
        if self._away_since is not None:
            self._find_leader(self._away_since)

    def _send(self, event: _Event) -> None:
        if self._stub is not None:
            self._outbox.append(event)
            self._wake.set()

    def _on_event(self, event: scheduler_pb2.SchedulerEvent) -> None:
        match event.WhichOneof("event"):
            case "placement":
                placement = event.placement
                if call := self._calls.get((placement.program_id, placement.call_id)):
                    call.on_placement(placement)
                else:
                    self._send(_Event(finish=_abandoned(placement)))
            case "rejection":
                rejection = event.rejection
                if call := self._calls.get((rejection.program_id, rejection.call_id)):
                    call.on_rejection(_failure(rejection))
            case _:
                pass

    def _find_leader(self, away_since: float) -> None:
        away_seconds = asyncio.get_running_loop().time() - away_since
        _log.info("scheduler %s leads term %d, after %.3f s without one", self._address, self._term, away_seconds)
        metrics.SCHEDULER_AWAY_SECONDS.observe(away_seconds)
        metrics.SCHEDULER_CONNECTED.set(1)
        self._away_since = None
        self._given_up = False
        self._end_grace()

    def _await_leader(self) -> None:
        loop = asyncio.get_running_loop()
        self._away_since = loop.time()
        self._grace = loop.call_later(self._grace_seconds, self._give_up)
        metrics.SCHEDULER_CONNECTED.set(0)

    def close(self) -> None:
        """The gateway ends: a stream that does so now is nothing lost, and no leader is awaited any more."""
        self._closed = True
        self._end_grace()
        metrics.SCHEDULER_CONNECTED.set(0)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _give_up(self) -> None:
        self._grace = None
        self._given_up = True
        waiting = [call for call in self._calls.values() if not call.placed]
        _log.warning("no scheduler leads: refusing %d calls that wait, and what comes, until one does", len(waiting))
        for call in waiting:
            call.on_rejection(no_scheduler())


async def _connect(channel: grpc.aio.Channel) -> None:
    """TimeoutError if nobody answers, Failure if nobody listens."""
    async with asyncio.timeout(_CONNECT_SECONDS):
        state = channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise Failure(Reason.UNAVAILABLE, "nobody listens there")
            await channel.wait_for_state_change(state)
            state = channel.get_state()


def _batches(events: Sequence[_Event]) -> Iterator[Sequence[_Event]]:
    """So that a message stays small when thousands of calls are announced."""
    return (events[start : start + _BATCH_EVENTS] for start in range(0, len(events), _BATCH_EVENTS))


def _abandoned(placement: scheduler_pb2.Placement) -> scheduler_pb2.FinishCall:
    """What a placement of a call that is over is answered with, so that its slot is free whatever was said before."""
    return scheduler_pb2.FinishCall(
        program_id=placement.program_id,
        call_id=placement.call_id,
        reason=call_pb2.FINISH_REASON_ABORT,
        attempt=placement.attempt,
    )


def _failure(rejection: scheduler_pb2.Rejection) -> Failure:
    retry_after = rejection.retry_after_seconds or None
    return Failure(reason_named(rejection.reason), rejection.message, retry_after_seconds=retry_after)


def no_scheduler() -> Failure:
    return Failure(Reason.NO_SCHEDULER, "no scheduler can be reached", retry_after_seconds=_RETRY_AFTER_SECONDS)
