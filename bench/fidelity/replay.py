"""The simulated engines alone, given what the real ones were given: where the cost model errs, and nothing else does.

Each call starts on the worker and at the time at which it really started there, with as much of its prompt cached. What
remains between its prefill and decode here and there is the cost model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.clock import VirtualClock
from services.common.driver import Driver
from services.worker.config import WorkerSection
from services.worker.simulated.core import Core
from services.worker.simulated.cost import Profile
from services.worker.simulated.events import Event, Report, Shape, Submitted
from sim.trace import Program

_PLENTY = 1 << 30
"""Tokens: KV memory is no matter here, for what was cached is known."""

Key = tuple[str, int]
"""Of a call: its program's id and its own."""


@dataclass(frozen=True, slots=True)
class EngineTime:
    """Of one call; seconds."""

    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class _Start:
    at: float
    key: Key
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int


def replay(done: Sequence[Program], profile: Profile, worker: WorkerSection) -> dict[Key, EngineTime]:
    """Engine times of all calls of a real run on such workers."""
    block = worker.block_size
    shape = Shape(_PLENTY // block, block, worker.max_num_seqs, worker.max_num_batched_tokens)
    workers: dict[str, list[_Start]] = {}
    for program in done:
        for call in program.calls:
            measured = call.measured
            at = (program.arrival_s or 0.0) + (measured.start_s or 0.0) + (measured.queue_s or 0.0)
            tokens = (measured.rec_in or 1, measured.rec_out or 1, (measured.rec_cached or 0) // block * block)
            workers.setdefault(measured.worker or "", []).append(_Start(at, (program.program_id, call.id), *tokens))
    times: dict[Key, EngineTime] = {}
    for starts in workers.values():
        times |= _engine(starts, shape, profile)
    return times


def _engine(starts: Sequence[_Start], shape: Shape, profile: Profile) -> dict[Key, EngineTime]:
    times: dict[Key, EngineTime] = {}

    def perform(report: Report) -> None:
        for progress in report.progress:
            if progress.receipt is not None:
                receipt = progress.receipt
                times[starts[progress.key].key] = EngineTime(receipt.prefill_seconds, receipt.decode_seconds)

    clock = VirtualClock()
    driver: Driver[Event, Report] = Driver(Core(shape, profile.step_seconds), clock, perform)
    for number, start in enumerate(starts):
        tokens = (start.prompt_tokens, start.output_tokens)
        call = Submitted(number, *tokens, interval=start.output_tokens, brought_tokens=start.cached_tokens)
        clock.call_at(start.at, lambda call=call: driver.feed(call))
    clock.run()
    return times
