"""A worker: the simulated engine's core on the virtual clock, and what its service tells gateways and the scheduler.

As in services/worker: outputs go to the gateway at once, load and cache changes to the scheduler at times (news.py).
Beside a KV pool, a call first asks that for what its engine lacks, and what is computed is saved there.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.common.driver import Driver
from services.kvpool.events import User
from services.scheduler.events import WorkerJoined
from services.scheduler.pool_events import KVPlan
from services.worker.simulated.core import Core, StepSeconds
from services.worker.simulated.events import Aborted, Counters, Event, Progress, Report, Shape, Submitted
from sim.average import Average
from sim.news import News
from sim.outcome import EngineResult
from sim.pool import NAMESPACE, Pool, named
from sim.wire import Wire

MODEL = "model"


class Caller(Protocol):
    """Whoever waits for a call's output."""

    def on_progress(self, progress: Progress) -> None: ...

    def on_lost(self, num_tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Start:
    """A call to run."""

    prompt_tokens: int
    output_tokens: int
    hashes: Sequence[int]
    """Of prompt and output."""
    num_prompt_blocks: int
    priority: int
    user: User
    kv: KVPlan
    caller: Caller


@dataclass(slots=True, eq=False)
class _Running:
    """A call that has not ended. `names`: its blocks' for the pool, of which so many are there or under way."""

    start: Start
    names: Sequence[bytes] = ()
    num_saved: int = 0
    num_found: int = 0
    begun: bool = False


class Worker:
    """One engine, beside a KV pool or none."""

    def __init__(
        self,
        worker_id: str,
        shape: Shape,
        step_seconds: StepSeconds,
        wire: Wire,
        report_seconds: float,
        pool: Pool | None = None,
    ) -> None:
        self.worker_id = worker_id
        self.shape = shape
        self.pool = pool
        self.news = News(worker_id, wire.clock, report_seconds)
        self._wire = wire
        self._clock = clock = wire.clock
        self._slowness = 1.0
        self._dead = False
        self._healthy_step_seconds = step_seconds
        self._core = Core(shape, self._step_seconds)
        self._driver: Driver[Event, Report] = Driver(self._core, clock, self._perform)
        self._keys = itertools.count(1)
        self._running: dict[int, _Running] = {}
        self._counters: Counters | None = None
        self._busy, self._usage, self._waiting = (Average(clock.now()) for _ in range(3))

    def description(self) -> WorkerJoined:
        """How it introduces itself."""
        shape = self.shape
        capacity = shape.num_blocks * shape.block_size
        sizes = (capacity, shape.max_num_seqs, shape.block_size, shape.num_blocks)
        news = (self.news.load(), self.news.all())
        joined = WorkerJoined(self.worker_id, self.worker_id, MODEL, *sizes, *news)
        if self.pool is None:
            return joined
        pool = self.pool
        return replace(joined, pool_id=pool.pool_id, kv_namespace_id=NAMESPACE, kv_block_bytes=pool.block_bytes)

    def start(self, call: Start) -> None:
        """Run a call."""
        if self._dead:
            self._wire.send(call.caller.on_lost, 0)
            return
        key = next(self._keys)
        running = self._running[key] = _Running(call)
        if self.pool is None:
            self._submit(key, running, 0)
            return
        running.names = named(call.hashes)
        held = 0
        for block in call.hashes[: call.num_prompt_blocks]:
            if block not in self.news.cached:
                break
            held += 1
        prompt = running.names[: call.num_prompt_blocks]
        self.pool.find(
            self._lease(key), prompt, held, call.user, call.kv, lambda found: self._found(key, running, held, found)
        )

    def slow_down(self, factor: float) -> None:
        """Take so many times as long for each step from now on."""
        self._slowness = factor

    def die(self) -> None:
        """Lose everything. Whoever called hears of it, with what the engine had sent."""
        self._dead = True
        self.news.watch = None
        for key in list(self._running):
            self._driver.feed(Aborted(key))
        for running in self._running.values():  # those that wait for the pool's answer
            self._wire.send(running.start.caller.on_lost, 0)
        self._running.clear()
        self._driver.close()
        for average in (self._busy, self._usage, self._waiting):
            average.set(0.0, self._clock.now())

    def check(self) -> None:
        """Assert the engine's invariants."""
        self._core.check()

    def result(self) -> EngineResult:
        """Its life until now."""
        now, counters = self._clock.now(), self._counters
        return EngineResult(
            self.worker_id,
            busy_seconds=self._busy.total(now),
            num_steps=counters.num_steps if counters else 0,
            num_preemptions=counters.num_preemptions if counters else 0,
            kv_usage=self._usage.mean(now),
            kv_usage_peak=self._usage.peak,
            prompt_tokens=counters.prompt_tokens if counters else 0,
            cached_tokens=counters.cached_tokens if counters else 0,
            generated_tokens=counters.generated_tokens if counters else 0,
            waiting=self._waiting.mean(now),
        )

    def _step_seconds(self, num_seqs: int, num_tokens: int, decode_context: int, prefill_pairs: float) -> float:
        return self._slowness * self._healthy_step_seconds(num_seqs, num_tokens, decode_context, prefill_pairs)

    def _found(self, key: int, running: _Running, held: int, found: int) -> None:
        """The pool has answered."""
        running.num_found = found
        running.num_saved = held + found if found else 0
        if key in self._running:
            self._submit(key, running, (held + found) * self.shape.block_size if found else 0)

    def _submit(self, key: int, running: _Running, brought_tokens: int) -> None:
        call = running.start
        sizes = (call.prompt_tokens, call.output_tokens)
        self._driver.feed(
            Submitted(
                key, *sizes, call.hashes, call.priority, interval=call.output_tokens, brought_tokens=brought_tokens
            )
        )

    def _perform(self, report: Report) -> None:
        counters, now = report.counters, self._clock.now()
        self._counters = counters
        self._busy.set(float(counters.num_running > 0), now)
        self._usage.set(counters.kv_usage, now)
        self._waiting.set(counters.num_waiting, now)
        self.news.take(report)
        for progress in report.progress:
            self._wire.record(self.worker_id, progress)
            running = self._running[progress.key]
            if progress.receipt is not None:
                del self._running[progress.key]
            if self._dead:
                self._wire.send(running.start.caller.on_lost, progress.num_tokens)
                continue
            if self.pool is not None:
                self._keep(self.pool, running, progress)
            self._wire.send(running.start.caller.on_progress, progress)

    def _keep(self, pool: Pool, running: _Running, progress: Progress) -> None:
        """Save what is computed; give back what was leased."""
        call = running.start
        if not running.begun:
            running.begun = True
            pool.loaded(self._lease(progress.key), running.num_found)
        computed = (call.prompt_tokens + progress.num_tokens - 1) // self.shape.block_size
        names = running.names[: max(computed, 0)]
        if len(names) > running.num_saved:
            pool.save(names, running.num_saved, call.user)
            running.num_saved = len(names)
        if progress.receipt is not None:
            pool.finish(call.user)

    def _lease(self, key: int) -> str:
        return f"{self.worker_id}/{key}"
