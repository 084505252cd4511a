"""The numbers that bound and tune the scheduler's core; config.py has their defaults and meanings."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Fields are those of `SchedulerSection`."""

    max_queued_calls: int
    max_queued_per_program: int
    max_queued_per_tenant: int
    lookahead_calls: int
    scan_limit: int
    max_attempts: int
    no_worker_grace_seconds: float
    max_programs: int
    kept_programs: int
    program_idle_seconds: float
    reject_unreachable_deadlines: bool
    assumed_output_tokens: int
    assumed_step_seconds: float
    assumed_prefill_tokens_per_second: float
    assumed_load_bytes_per_second: float
    assumed_ssd_bytes_per_second: float
    assumed_pull_bytes_per_second: float
    decode_delay_weight: float
    tenant_weights: Mapping[str, float]
