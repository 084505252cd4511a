"""The simulated engine behind the engine interface: the core on the event loop's clock, outputs as planned.

Everything runs on the event loop's thread. A call is planned and hashed when it is submitted; after that a step costs
what its reports cost, for between reports the core only counts.
"""

import asyncio
import logging
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from legato.v1 import call_pb2, worker_pb2
from services.common.clock import Clock, LoopClock, Timer
from services.common.driver import Driver
from services.common.errors import Failure, Reason
from services.common.hash_cache import BlockHashes
from services.worker.config import WorkerSection
from services.worker.engine import EngineCall, EngineDead, Listener, Output
from services.worker.simulated import tokens
from services.worker.simulated.config import SimulatedSection
from services.worker.simulated.core import Core
from services.worker.simulated.cost import load_profile
from services.worker.simulated.events import (
    Aborted,
    Counters,
    End,
    Event,
    Prioritized,
    Progress,
    Receipt,
    Report,
    Shape,
    Submitted,
)
from services.worker.simulated.model_config import max_position
from services.worker.simulated.vocabulary import Characters, Vocabulary, vocabulary

_log = logging.getLogger(__name__)

_HASH_CACHE_BYTES = 8 << 20


@dataclass(slots=True)
class _Live:
    plan: tokens.Plan
    num_prompt: int
    """Without resumed tokens."""
    num_resumed: int
    sent: int
    """Output tokens reported, those of earlier attempts included."""
    num_logprobs: int | None


class _GuardedClock:
    """A clock whose callbacks report what they raise instead of leaving a silent engine behind."""

    def __init__(self, clock: Clock, died: Callable[[Exception], None]) -> None:
        self._clock = clock
        self._died = died

    def now(self) -> float:
        return self._clock.now()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._clock.call_at(when, lambda: self._run(callback))

    def _run(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self._died(error)


class SimulatedEngine:
    """See `Engine`. `clock`: the event loop's, unless given."""

    def __init__(self, worker: WorkerSection, simulated: SimulatedSection, clock: Clock | None = None) -> None:
        self._worker = worker
        self._simulated = simulated
        self._given_clock = clock
        self._hashes = BlockHashes(worker.block_size, _HASH_CACHE_BYTES)
        self._live: dict[int, _Live] = {}
        self._pending: list[Output] = []
        """Outputs of calls that ended within `submit` or `abort`: given to the listener when those have returned."""
        self._deferring = False
        self._driver: Driver[Event, Report] | None = None

    async def start(self, listener: Listener) -> worker_pb2.WorkerDescription:
        """Raises ValueError when the settings do not fit together."""
        worker = self._worker
        profile = load_profile(self._simulated.profile)
        num_blocks = (self._simulated.kv_tokens or profile.kv_tokens) // worker.block_size
        self._listener = listener
        self._vocabulary = _load_vocabulary(worker.model_path)
        self._max_model_len = _max_model_len(worker, num_blocks * worker.block_size)
        self._death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock = _GuardedClock(self._given_clock or LoopClock(), self._die)
        budget = max(worker.max_num_batched_tokens, worker.max_num_seqs)
        shape = Shape(
            num_blocks,
            worker.block_size,
            worker.max_num_seqs,
            budget,
            self._simulated.speed,
            leap_seconds=worker.report_interval_seconds,
            load_tokens_per_second=profile.load_tokens_per_second,
            preemption=worker.preempting(),
        )
        self._driver = Driver(Core(shape, profile.step_seconds), self._clock, self._perform)
        description = worker_pb2.WorkerDescription(
            model=worker.model,
            model_path=worker.model_path,
            engine="simulated",
            engine_version=self._simulated.profile,
            max_model_len=self._max_model_len,
            max_num_seqs=worker.max_num_seqs,
            max_num_batched_tokens=budget,
            block_size=worker.block_size,
            num_blocks=num_blocks,
        )
        if self._simulated.pool_id:
            description.pool_id = self._simulated.pool_id
            description.kv_namespace_id = f"simulated/{worker.model}/{self._simulated.profile}/{worker.block_size}"
            description.kv_block_bytes = profile.kv_bytes_per_token * worker.block_size
        return description

    async def run(self) -> None:
        await self._death

    def submit(self, call: EngineCall) -> None:
        start, resumed = call.start, call.start.num_resumed_tokens
        known = array("I", start.prompt_token_ids[:])  # a slice is a list, which converts faster
        num_prompt = len(known) - resumed
        try:
            prompt = known[: max(num_prompt, 0)]
            plan = tokens.plan(start, prompt, self._vocabulary, self._max_model_len, self._simulated.mean_output_tokens)
        except Failure as failure:
            self._defer([_refusal(call.key, failure.reason, failure.message)])
            return
        if start.kv.hand_off:
            tokens.cut(plan, resumed + 1)
        num_logprobs = start.sampling.logprobs if start.sampling.HasField("logprobs") else None
        live = self._live[call.key] = _Live(plan, num_prompt, resumed, resumed, num_logprobs)
        left = plan.ids[resumed:]
        if not left:  # the earlier attempt had got everything but the news that it was done
            self._defer([self._output(Progress(call.key, 0, Receipt(End.DONE, 0, 0.0, 0.0, 0.0, 0)), live)])
            return
        hashes = self._hashes.of(known + array("I", left), start.cache_salt)
        interval = max(start.stream_interval, 1)
        brought = start.kv.handle.num_blocks * self._worker.block_size if self._simulated.pool_id else 0
        self._feed(Submitted(call.key, len(known), len(left), hashes, start.priority, interval, brought))

    def abort(self, key: int) -> None:
        self._feed(Aborted(key))

    def prioritize(self, key: int, priority: int) -> None:
        self._feed(Prioritized(key, priority))

    async def close(self) -> None:
        if self._driver is None:
            return
        for key in list(self._live):
            self.abort(key)
        self._driver.close()
        self._flush()
        self._death.cancel()

    def _feed(self, event: Event) -> None:
        assert self._driver is not None, "the engine was not started"
        self._deferring = True
        try:
            self._driver.feed(event)
        finally:
            self._deferring = False

    def _perform(self, report: Report) -> None:
        if report.stored or report.removed:
            self._listener.on_cache(report.stored, report.removed, False)
        outputs = [self._output(progress, self._live[progress.key]) for progress in report.progress]
        if self._deferring:
            self._defer(outputs)
        elif outputs:
            self._listener.on_outputs(outputs)
        self._listener.on_load(_load(report.counters))

    def _defer(self, outputs: Sequence[Output]) -> None:
        if outputs and not self._pending:
            self._clock.call_at(self._clock.now(), self._flush)
        self._pending.extend(outputs)

    def _flush(self) -> None:
        outputs, self._pending = self._pending, []
        if outputs:
            self._listener.on_outputs(outputs)

    def _output(self, progress: Progress, live: _Live) -> Output:
        plan, begin = live.plan, live.sent
        end = live.sent = live.num_resumed + progress.num_tokens
        text = "".join(plan.pieces[begin:end])
        shown = text if plan.tool is None else ""
        message = worker_pb2.CallOutput(offset=begin, token_ids=plan.ids[begin:end], text=shown)
        if plan.tool is not None:
            if begin == 0 and end:
                message.tool_calls.add(id=plan.tool.id, name=plan.tool.name, arguments=text)
            elif text:
                message.tool_calls.add(arguments=text)
        if live.num_logprobs is not None:
            message.logprobs.extend(tokens.logprobs(plan, begin, end, live.num_logprobs, self._vocabulary))
        if progress.receipt is not None:
            del self._live[progress.key]
            message.finish.CopyFrom(_finish(live, progress.receipt))
        return Output(progress.key, message)

    def _die(self, error: Exception) -> None:
        _log.error("the simulated engine failed", exc_info=error)
        if self._driver is not None:
            self._driver.close()
        if not self._death.done():
            self._death.set_exception(EngineDead(f"the simulated engine failed: {error!r}"))


def _load_vocabulary(model_path: str) -> Vocabulary:
    loaded = vocabulary(model_path)
    if isinstance(loaded, Characters):
        _log.warning("no tokenizer in %r: each output token is one character", model_path)
    return loaded


def _max_model_len(worker: WorkerSection, capacity: int) -> int:
    """Longest prompt plus output: the setting, or what the model allows and the cache holds."""
    if worker.max_model_len > capacity:
        raise ValueError(f"[worker] max_model_len {worker.max_model_len} exceeds the KV cache of {capacity} tokens")
    if capacity < 2:
        raise ValueError("the KV cache holds no block: raise [simulated] kv_tokens or lower [worker] block_size")
    return worker.max_model_len or min(max_position(Path(worker.model_path)) or capacity, capacity)


def _refusal(key: int, reason: Reason, message: str) -> Output:
    error = call_pb2.FINISH_REASON_ERROR
    finish = worker_pb2.Finish(reason=error, error_reason=reason.name, error_message=message)
    return Output(key, worker_pb2.CallOutput(finish=finish))


def _finish(live: _Live, receipt: Receipt) -> worker_pb2.Finish:
    finish = worker_pb2.Finish(
        reason=live.plan.finish if receipt.end is End.DONE else call_pb2.FINISH_REASON_ABORT,
        stop=live.plan.stop if receipt.end is End.DONE else "",
        usage=call_pb2.Usage(
            prompt_tokens=live.num_prompt,
            completion_tokens=live.sent,
            cached_tokens=min(receipt.cached_tokens, live.num_prompt),
        ),
        timings=call_pb2.Timings(
            queue_seconds=receipt.queue_seconds,
            prefill_seconds=receipt.prefill_seconds,
            decode_seconds=receipt.decode_seconds,
        ),
    )
    if receipt.end is End.TOO_LONG:
        finish.reason, finish.error_reason = call_pb2.FINISH_REASON_ERROR, Reason.CONTEXT_LENGTH_EXCEEDED.name
        finish.error_message = "prompt and output together do not fit into the KV cache"
    return finish


def _load(counters: Counters) -> worker_pb2.Load:
    """The fields have the same names."""
    return worker_pb2.Load(**counters._asdict())
