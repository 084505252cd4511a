"""What a simulation tells: every program, every call, every engine, and the queue."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """One program, from its arrival to the end of its last call; seconds of virtual time."""

    program_id: str
    tenant: str
    workload: str
    arrival: float
    end: float
    num_calls: int
    completed: bool = True
    """All its calls were answered."""

    @property
    def seconds(self) -> float:
        """Its completion time (JCT)."""
        return self.end - self.arrival


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call, as its client saw it. A call that was refused has an error, and what did not happen is its end."""

    program_id: str
    call_id: int
    agent: str
    submitted: float
    placed: float
    """When its (last) place became known."""
    first_token: float
    end: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    worker_id: str
    attempts: int = 1
    preemptions: int = 0
    error: str = ""
    prefill_seconds: float = 0.0
    """From the engine's start on it to its first token; as the next, of its last attempt."""
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One engine's life."""

    worker_id: str
    busy_seconds: float
    """With something running."""
    num_steps: int
    num_preemptions: int
    kv_usage: float
    """Mean over time, of the run's whole time."""
    kv_usage_peak: float
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    waiting: float
    """Mean number of calls in its own queue."""


@dataclass(frozen=True, slots=True)
class QueueResult:
    """Calls that had been submitted and had no place."""

    mean: float
    """By time."""
    max: int


@dataclass(frozen=True, slots=True)
class PoolResult:
    """One host's KV pool, in blocks."""

    pool_id: str
    num_requested: int
    """That engines lacked and asked for."""
    num_found: int
    num_pulled: int
    """From other hosts."""
    num_evicted: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    programs: list[ProgramResult]
    calls: list[CallResult]
    engines: list[EngineResult]
    queue: QueueResult
    virtual_seconds: float
    """From the first arrival to the last end."""
    wall_seconds: float
    num_events: int
    digest: str
    """Of everything that any core was told, in order: equal digests are equal runs."""
    pools: list[PoolResult] = field(default_factory=list[PoolResult])
