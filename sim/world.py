"""A run: programs come to a cluster on a virtual clock, until all have ended."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from services.common.clock import VirtualClock
from sim.client import Client
from sim.cluster import Cluster
from sim.faults import Fault
from sim.foresight import forecasts
from sim.outcome import CallResult, Outcome, ProgramResult, QueueResult
from sim.trace import Program
from sim.wire import Wire

if TYPE_CHECKING:
    from sim.experiment import Setup


class World:
    """One run. Programs come in order of arrival; `concurrency` bounds how many live at a time, 0: nothing does."""

    def __init__(
        self, setup: "Setup", programs: Iterable[Program], *, concurrency: int = 0, faults: Sequence[Fault] = ()
    ) -> None:
        self._setup = setup
        self._clock = VirtualClock()
        self._wire = Wire(self._clock, setup.network_seconds)
        self._cluster = Cluster(setup, self._wire)
        self._programs: list[ProgramResult] = []
        self._calls: list[CallResult] = []
        self._coming: Iterator[Program] = iter(programs)
        self._concurrency = concurrency
        self._num_live = 0
        self._exhausted = False
        for fault in faults:
            self._clock.call_at(fault.at, lambda fault=fault: self._cluster.inflict(fault))

    def run(self, progress: Callable[[int], None] | None = None) -> Outcome:
        """Until every program has ended. `progress` hears how many have."""
        began = time.perf_counter()
        num_events = num_told = 0
        self._next_program()
        while not self._exhausted or self._num_live:
            assert self._clock.step(), "nothing is due and programs are not over"
            num_events += 1
            if progress is not None and len(self._programs) != num_told:
                num_told = len(self._programs)
                progress(num_told)
        now = self._clock.now()
        first = min((program.arrival for program in self._programs), default=now)
        waiting = self._cluster.gateway.waiting
        return Outcome(
            self._programs,
            self._calls,
            self._cluster.engines(),
            QueueResult(waiting.mean(now), int(waiting.peak)),
            now - first,
            time.perf_counter() - began,
            num_events,
            self._wire.digest,
            [pool.result() for pool in self._cluster.pools.values()],
        )

    def check(self) -> None:
        """Assert the invariants of every core."""
        self._cluster.check()

    def _next_program(self) -> None:
        """Set when the next program arrives; only one that has not arrived is ever held."""
        program = next(self._coming, None)
        if program is None:
            self._exhausted = True
            return
        self._clock.call_at(program.arrival_s or 0.0, lambda: self._arrive(program))

    def _arrive(self, program: Program) -> None:
        foreseen = forecasts(program, self._cluster.profile) if self._setup.oracle else ()
        self._num_live += 1
        if not self._concurrency or self._num_live < self._concurrency:
            self._next_program()
        Client(program, foreseen, self._setup.block_size, self._cluster.gateway, self._clock, self._end).start()

    def _end(self, program: ProgramResult, calls: Sequence[CallResult]) -> None:
        self._programs.append(program)
        self._calls += calls
        full = self._concurrency and self._num_live == self._concurrency
        self._num_live -= 1
        if full:
            self._next_program()
