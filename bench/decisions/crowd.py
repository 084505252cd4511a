"""Crowd: agent programs in a closed loop on workers that run what they are given, so that the core is all that costs.

Ten programs for each worker of eight seats, each with a call most of the time: more than there is room for, so that
calls wait. A program is a chain of calls, each with the context of the one before and some 2,200 tokens more, as
coding agents have (algorithms 4.5), behind one of a few system prompts. Workers report blocks that came and went
(an LRU of whole programs, one report per call) and their load once a second.
"""

import random
from collections import OrderedDict
from dataclasses import dataclass, field

from bench.decisions.stopwatch import Stopwatch
from services.common.clock import VirtualClock
from services.common.driver import Driver
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.events import (
    Action,
    CacheReported,
    CallFinished,
    CallStarted,
    CallSubmitted,
    Event,
    FleetKnown,
    LoadReported,
    Place,
    ProgramEnded,
    TokenUsage,
    WorkerJoined,
)

PROGRAMS_PER_WORKER = 10
SEATS = 8
MODEL = "m"
BLOCK_TOKENS = 16
NUM_BLOCKS = 27_600
"""Llama-3-8B on 80 GB: 442,000 tokens."""
PREFILL_SECONDS, STEP_SECONDS = 1 / 8000, 0.02
SYSTEM_PROMPTS, SYSTEM_BLOCKS = 20, 100
FIRST_BLOCKS, TURN_BLOCKS, TURNS = 500, 140, (4, 24)
OUTPUT_TOKENS, GAP_SECONDS = (100, 600), 1.0


@dataclass(slots=True)
class _Program:
    program_id: str
    blocks: list[int]
    turns: int
    calls: int = 0


@dataclass(slots=True)
class _Worker:
    worker_id: str
    held: OrderedDict[str, list[int]] = field(default_factory=OrderedDict[str, list[int]])
    """Blocks by program, the one used last at the end."""
    num_held: int = 0
    running: int = 0


class Crowd:
    """`num_workers` workers and their programs, from the first call on."""

    def __init__(self, num_workers: int, seed: int = 1, **settings: object) -> None:
        section = SchedulerSection.model_validate(settings)
        self.clock = VirtualClock()
        self.watch = Stopwatch(Core(section.limits(), section.load_policy()))
        self._driver: Driver[Event, Action] = Driver(self.watch, self.clock, self._perform)
        self._draw = random.Random(seed)
        self._programs: dict[str, _Program] = {}
        self._calls: dict[tuple[str, str], CallSubmitted] = {}
        self._num_started = 0
        self._systems = [self._blocks(SYSTEM_BLOCKS) for _ in range(SYSTEM_PROMPTS)]
        self._workers = {f"w{i}": _Worker(f"w{i}") for i in range(num_workers)}
        for worker_id in self._workers:
            self._driver.feed(WorkerJoined(worker_id, worker_id, MODEL, 131_072, SEATS, BLOCK_TOKENS, NUM_BLOCKS))
            self._later(self._draw.random(), lambda worker_id=worker_id: self._report(worker_id))
        self._driver.feed(FleetKnown())
        for _ in range(PROGRAMS_PER_WORKER * num_workers):
            self._later(10 * self._draw.random(), self._begin)

    def run(self, num_decisions: int) -> None:
        """Until so many more calls were placed."""
        self.watch.start()
        while self.watch.num_decisions < num_decisions:
            self.clock.run(self.clock.now() + 0.1)

    def _begin(self) -> None:
        self._num_started += 1
        blocks = [*self._draw.choice(self._systems), *self._blocks(FIRST_BLOCKS)]
        program = _Program(f"p{self._num_started}", blocks, self._draw.randint(*TURNS))
        self._programs[program.program_id] = program
        self._call(program)

    def _call(self, program: _Program) -> None:
        program.calls += 1
        program.blocks = program.blocks + self._blocks(TURN_BLOCKS)
        event = CallSubmitted(
            1,
            program.program_id,
            f"c{program.calls}",
            MODEL,
            prompt_tokens=BLOCK_TOKENS * len(program.blocks) + 7,
            max_tokens=0,
            tenant=f"t{len(program.program_id) % 3}",
            agent="coder",
            block_hashes=program.blocks,
        )
        self._calls[event.program_id, event.call_id] = event
        self._driver.feed(event)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Place):
            call = self._calls[action.program_id, action.call_id]
            worker = self._workers[action.worker_id]
            worker.running += 1
            uncached = call.prompt_tokens - action.expected_cached_tokens
            self._later(uncached * PREFILL_SECONDS, lambda: self._start(call, worker))

    def _start(self, call: CallSubmitted, worker: _Worker) -> None:
        self._driver.feed(CallStarted(1, call.program_id, call.call_id))
        tokens = self._draw.randint(*OUTPUT_TOKENS)
        seconds = tokens * STEP_SECONDS * (1 + worker.running / SEATS)
        self._later(seconds, lambda: self._finish(call, worker, tokens))

    def _finish(self, call: CallSubmitted, worker: _Worker, tokens: int) -> None:
        worker.running -= 1
        self._driver.feed(self._cached(call, worker))
        usage = TokenUsage(call.prompt_tokens, tokens)
        del self._calls[call.program_id, call.call_id]
        self._driver.feed(CallFinished(1, call.program_id, call.call_id, True, usage))
        program = self._programs[call.program_id]
        if program.calls < program.turns:
            self._later(self._draw.lognormvariate(0.0, 1.0) * GAP_SECONDS, lambda: self._call(program))
        else:
            del self._programs[call.program_id]
            self._driver.feed(ProgramEnded(call.program_id))
            self._begin()

    def _cached(self, call: CallSubmitted, worker: _Worker) -> CacheReported:
        blocks = list(call.block_hashes)
        known = worker.held.pop(call.program_id, [])
        worker.held[call.program_id] = blocks
        worker.num_held += len(blocks) - len(known)
        removed: list[int] = []
        while worker.num_held > 0.9 * NUM_BLOCKS and len(worker.held) > 1:
            gone = worker.held.popitem(last=False)[1]
            worker.num_held -= len(gone)
            removed += gone[SYSTEM_BLOCKS:]
        return CacheReported(worker.worker_id, stored=blocks[len(known) :], removed=removed)

    def _report(self, worker_id: str) -> None:
        running = self._workers[worker_id].running
        speeds = STEP_SECONDS * (1 + running / SEATS), 1 / PREFILL_SECONDS
        self._driver.feed(LoadReported(worker_id, running, 0, *speeds))
        self._later(1.0, lambda: self._report(worker_id))

    def _blocks(self, count: int) -> list[int]:
        first = self._draw.getrandbits(60)
        return [(first + i) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF for i in range(count)]

    def _later(self, seconds: float, callback: object) -> None:
        self.clock.call_at(self.clock.now() + seconds, callback)  # pyright: ignore[reportArgumentType]
