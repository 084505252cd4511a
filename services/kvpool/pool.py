"""The live pool: the core with its driver, those who wait for its answers and those who follow its blocks.

Everything runs on the event loop's thread. After `end` whoever waits gets DRAINING, and so does whoever asks.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar, assert_never

from services.common.clock import LoopClock
from services.common.driver import Driver
from services.common.errors import Failure, Reason
from services.kvpool import metrics
from services.kvpool.actions import (
    Action,
    AnswerAcquire,
    AnswerAttach,
    AnswerBeginStore,
    AnswerCommit,
    AnswerDemote,
    AnswerPeerRead,
    AnswerPrefetch,
    ForgetDisk,
    Pull,
    ReadDisk,
    Refuse,
    ResolvePeer,
    WriteDisk,
)
from services.kvpool.core import Core
from services.kvpool.events import CallerGone, Demote, DiskEntry, DiskRestored, Event
from services.kvpool.places import DRAM, SSD
from services.kvpool.speeds import Meter, Speeds

Answer = AnswerAttach | AnswerAcquire | AnswerBeginStore | AnswerCommit | AnswerPrefetch | AnswerDemote | AnswerPeerRead
Work = WriteDisk | ReadDisk | ForgetDisk | ResolvePeer | Pull
"""Actions that move bytes; see transfers.py."""

_A = TypeVar("_A", bound=Answer)
_ENDED: Final = "the pool is about to stop"


class Pool:
    """One life of a pool. `core` may be read by anyone."""

    def __init__(self, pool_id: str, arena_id: str, core: Core, speeds: Speeds) -> None:
        self.pool_id = pool_id
        self.arena_id = arena_id
        self.core = core
        self.speeds = speeds
        self._clock = LoopClock()
        self._read = [Meter(self._clock.now()) for _ in (DRAM, SSD)]
        self._written = [Meter(self._clock.now()) for _ in (DRAM, SSD)]
        self._driver: Driver[Event, Action] = Driver(self, self._clock, self._perform)
        self._work: Callable[[Work], None] | None = None
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer | Refuse]] = {}
        self._revised = asyncio.Event()
        self._revision = core.changes.revision
        self._ended = asyncio.Event()

    def begin(self, work: Callable[[Work], None], entries: Sequence[DiskEntry]) -> None:
        """From now on bytes can be moved. `entries`: what the disk holds from an earlier life."""
        self._work = work
        if entries:
            self.feed(DiskRestored(entries))

    def feed(self, event: Event) -> None:
        """Let something happen."""
        self._driver.feed(event)

    async def ask(self, event: Callable[[int], Event], kind: type[_A]) -> _A:
        """Feed the event of a request number and wait for its answer. Raises Failure when it is refused. If the caller
        goes away, so does what it asked for."""
        if self._ended.is_set():
            raise Failure(Reason.DRAINING, _ENDED)
        request = next(self._requests)
        waiting = self._waiting[request] = asyncio.get_running_loop().create_future()
        try:
            self.feed(event(request))
            answer = await waiting
        finally:
            if self._waiting.pop(request, None) is not None:
                self.feed(CallerGone(request))
        if isinstance(answer, Refuse):
            raise Failure(answer.reason, answer.message)
        assert isinstance(answer, kind), f"{answer} for a {kind.__name__}"
        return answer

    def demote_all(self) -> None:
        """Begin to move what programs hold to disk."""
        for program_id in [program.program_id for program in self.core.programs]:
            self.feed(Demote(next(self._requests), program_id))

    async def pause(self, seconds: float) -> None:
        """Wait so long. Raises Failure when the pool ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        self._check_live()

    async def revised(self, revision: int) -> None:
        """Wait until there is something newer. Raises Failure when the pool ends."""
        while self.core.changes.revision == revision and not self._ended.is_set():
            await self._revised.wait()
        self._check_live()

    def rates(self, tier: int) -> tuple[float, float]:
        """Bytes a second that are read from and written to a tier, over about the last ten."""
        now = self._clock.now()
        return self._read[tier].rate(now), self._written[tier].rate(now)

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ended.set()
        self._tell()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Failure(Reason.DRAINING, _ENDED))

    def close(self) -> None:
        """The core is not called again."""
        self._driver.close()

    # The core, as the driver sees it.

    def handle(self, event: Event, now: float) -> list[Action]:
        began = time.perf_counter()
        actions = self.core.handle(event, now)
        metrics.DECISION_SECONDS.observe(time.perf_counter() - began)
        self._look(now)
        return actions

    def tick(self, now: float) -> list[Action]:
        actions = self.core.tick(now)
        self._look(now)
        return actions

    def next_tick(self) -> float | None:
        return self.core.next_tick()

    def _look(self, now: float) -> None:
        counts = self.core.counts
        for tier in (DRAM, SSD):
            self._read[tier].update(counts.read_bytes[tier], now)
            self._written[tier].update(counts.written_bytes[tier], now)
        if self._revision != self.core.changes.revision:
            self._revision = self.core.changes.revision
            self._tell()

    def _tell(self) -> None:
        self._revised.set()
        self._revised = asyncio.Event()

    def _check_live(self) -> None:
        if self._ended.is_set():
            raise Failure(Reason.DRAINING, _ENDED)

    def _perform(self, action: Action) -> None:
        match action:
            case WriteDisk() | ReadDisk() | ForgetDisk() | ResolvePeer() | Pull():
                assert self._work is not None, "work before `begin`"
                self._work(action)
            case (
                Refuse()
                | AnswerAttach()
                | AnswerAcquire()
                | AnswerBeginStore()
                | AnswerCommit()
                | AnswerPrefetch()
                | AnswerDemote()
                | AnswerPeerRead()
            ):
                waiting = self._waiting.pop(action.request, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(action)
            case _:
                assert_never(action)
