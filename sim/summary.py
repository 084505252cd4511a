"""A run in figures: what the tables of simulations show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.outcome import CallResult, Outcome


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds, unless said otherwise. Completion times are of programs that completed."""

    jct_mean: float
    jct_p50: float
    jct_p95: float
    jct_p99: float
    ttft_mean: float
    ttft_p99: float
    tpot: float
    """Mean over tokens after the first."""
    slowdown: float
    """Mean over programs of completion time over critical path."""
    jain: float
    """Of the tenants' mean slowdowns: 1 is equal."""
    cached_share: float
    """Of prompt tokens."""
    queue: float
    """Mean number of calls in the scheduler's queue and the engines'."""
    kv_usage: float
    kv_peak: float
    busy: float
    """Share of time in which an engine runs something."""
    preemptions: float
    programs_per_hour: float
    tokens_per_second: float
    """Generated."""
    failed: float
    """Programs that did not complete."""


def summarise(outcome: Outcome, critical_paths: Mapping[str, float]) -> Summary:
    """`critical_paths`: seconds of each program, alone on an empty cluster."""
    done = [program for program in outcome.programs if program.completed]
    calls = [call for call in outcome.calls if not call.error]
    seconds = max(outcome.virtual_seconds, 1e-9)
    jcts = [program.seconds for program in done]
    first = [call.first_token - call.submitted for call in calls]
    slowdowns: dict[str, list[float]] = {}
    for program in done:
        slowdowns.setdefault(program.tenant, []).append(program.seconds / critical_paths[program.program_id])
    engines = outcome.engines
    generated = sum(engine.generated_tokens for engine in engines)
    return Summary(
        jct_mean=_mean(jcts),
        jct_p50=_quantile(jcts, 0.5),
        jct_p95=_quantile(jcts, 0.95),
        jct_p99=_quantile(jcts, 0.99),
        ttft_mean=_mean(first),
        ttft_p99=_quantile(first, 0.99),
        tpot=_tpot(calls),
        slowdown=_mean(value for values in slowdowns.values() for value in values),
        jain=jain([_mean(values) for values in slowdowns.values()]),
        cached_share=sum(call.cached_tokens for call in calls) / max(1, sum(call.prompt_tokens for call in calls)),
        queue=outcome.queue.mean + sum(engine.waiting for engine in engines),
        kv_usage=_mean(engine.kv_usage for engine in engines),
        kv_peak=max(engine.kv_usage_peak for engine in engines),
        busy=_mean(engine.busy_seconds for engine in engines) / seconds,
        preemptions=float(sum(engine.num_preemptions for engine in engines)),
        programs_per_hour=3600 * len(done) / seconds,
        tokens_per_second=generated / seconds,
        failed=float(len(outcome.programs) - len(done)),
    )


def jain(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _tpot(calls: Sequence[CallResult]) -> float:
    tokens = sum(call.output_tokens - 1 for call in calls)
    return sum(call.end - call.first_token for call in calls) / max(1, tokens)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else 0.0
