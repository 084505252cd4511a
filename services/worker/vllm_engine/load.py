"""The engine's load, from what vLLM hands to its stat loggers once per step."""

import logging
from collections.abc import Callable

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from legato.v1 import worker_pb2
from services.worker import metrics

_log = logging.getLogger(__name__)

_WEIGHT = 0.1
"""Of a new sample in the moving averages."""
_LEAST_PREFILL = 64
"""Computed prompt tokens below which a call says nothing about prefill speed."""


class LoadLogger(StatLoggerBase):
    """Keeps the counters and hands them on after each step."""

    def __init__(self, on_load: Callable[[worker_pb2.Load], None]) -> None:
        self.load = worker_pb2.Load()
        self._on_load = on_load

    def factory(self, vllm_config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        """vLLM wants to make its loggers itself."""
        return self

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        try:
            self._record(scheduler_stats, iteration_stats)
        except Exception:  # it would end vLLM's output handler, and with it all calls
            _log.exception("the load of a step could not be told")

    def _record(self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None) -> None:
        if scheduler_stats is not None:
            self.load.num_running = scheduler_stats.num_running_reqs
            self.load.num_waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.load.kv_usage = scheduler_stats.kv_cache_usage
            self.load.num_steps += 1
            for what, amount in (scheduler_stats.kv_connector_stats or {}).items():
                metrics.KV_TRANSFERS.labels(what).inc(amount)
        if iteration_stats is not None:
            self._add(iteration_stats)
        self._on_load(self.load)

    def idle(self) -> None:
        """Nothing runs any more. vLLM does not record the step in which the last call is aborted."""
        self.load.num_running = self.load.num_waiting = 0
        self.load.kv_usage = 0
        self._on_load(self.load)

    def log_engine_initialized(self) -> None:
        pass

    def _add(self, step: IterationStats) -> None:
        self.load.num_preemptions += step.num_preempted_reqs
        self.load.prompt_tokens += step.prompt_token_stats.total
        self.load.cached_tokens += step.prompt_token_stats.cached_tokens
        self.load.generated_tokens += step.num_generation_tokens
        latencies = step.inter_token_latencies_iter
        if latencies and not step.prompt_token_stats.total:
            self.load.step_seconds = _average(self.load.step_seconds, sum(latencies) / len(latencies))
        for done in step.finished_requests:
            computed = done.num_prompt_tokens - done.num_cached_tokens
            if computed >= _LEAST_PREFILL and done.prefill_time > 0:
                speed = computed / done.prefill_time
                self.load.prefill_tokens_per_second = _average(self.load.prefill_tokens_per_second, speed)


def _average(before: float, sample: float) -> float:
    return sample if not before else before + _WEIGHT * (sample - before)
