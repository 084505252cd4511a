"""What the scheduler's core is told and what it answers.

Times are seconds on the core's clock, lengths are tokens. `link` names one gateway stream: decisions about a call go to
the link that announced it, and only that link's events about it count. (program_id, call_id) names a call; every event
about one is idempotent. `attempt` 0 in an event about a call is taken for its current one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from services.common.cache_note import NO_NOTE, CacheNote
from services.common.errors import Reason
from services.common.forecast import NO_FORECAST, Forecast
from services.scheduler.pool_events import (
    NO_PLAN,
    CallHandedOff,
    KVPlan,
    PoolAway,
    PoolJoined,
    PoolLost,
    PoolReported,
    Prefetch,
    ReleaseProgram,
    Role,
    RoleChanged,
)
from services.scheduler.service_class import ServiceClass

CallKey: TypeAlias = tuple[str, str]
"""(program_id, call_id)."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of finished calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, other: "TokenUsage") -> "TokenUsage":
        """The sum of both."""
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class CallSubmitted:
    """A call wants to run, or (attempt > 0) a gateway that came back says where it runs."""

    link: int
    program_id: str
    call_id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    """Bound of the output; 0: none given."""
    tenant: str = ""
    agent: str = ""
    block_hashes: Sequence[int] = ()
    """Of each full block of the prompt, in order."""
    priority: int = 0
    queue_timeout_seconds: float = 0.0
    """For the first place; restarted calls have no bound. 0: wait as long as it takes."""
    attempt: int = 0
    worker_id: str = ""
    thread: str = ""
    """The chain of calls inside the program that it continues."""
    service_class: ServiceClass = ServiceClass.DEFAULT
    deadline_seconds: float = 0.0
    """From now, when its program is wanted complete; 0: not said. The earliest that its calls say counts."""
    forecast: Forecast = NO_FORECAST


@dataclass(frozen=True, slots=True)
class CallStarted:
    """An attempt's first token came: the prefill is done."""

    link: int
    program_id: str
    call_id: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class CallFinished:
    """The call ended, well or not, placed or not: it is over whichever attempt ended."""

    link: int
    program_id: str
    call_id: str
    completed: bool
    """The output is whole (not aborted, not failed), so its length teaches something."""
    usage: TokenUsage = TokenUsage()
    service_seconds: float = 0.0
    """Engine seconds, prefill and decode; 0: unknown."""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class CallLost:
    """The gateway saw the call's worker go away."""

    link: int
    program_id: str
    call_id: str
    attempt: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """The program makes no more calls."""

    program_id: str


@dataclass(frozen=True, slots=True)
class CallForeseen:
    """The workflow service foresees something of a call, or (no call_id) of the next call of a thread, which takes it
    with it when it comes. What the caller said of the call goes first."""

    program_id: str
    thread: str
    call_id: str
    forecast: Forecast
    """`returns`: with a call_id from that call's end on, else from now on."""
    revision: int
    """Grows with every forecast of the thread; of one call, or of its next one, the newest counts."""
    valid_seconds: float
    """From now; then it is as if it had not been said."""
    agent: str = ""
    """Names the thread where it has no name."""


@dataclass(frozen=True, slots=True)
class ForecasterLost:
    """What the workflow service said holds no longer; another one may begin with smaller revisions."""


@dataclass(frozen=True, slots=True)
class GatewayLost:
    """A gateway's stream ended."""

    link: int


@dataclass(frozen=True, slots=True)
class LoadReported:
    """A worker's counters, as far as decisions need them."""

    worker_id: str
    num_running: int = 0
    num_waiting: int = 0
    step_seconds: float = 0.0
    """0: unknown."""
    prefill_tokens_per_second: float = 0.0
    """0: unknown."""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker answered; whatever was known of this id before is void."""

    worker_id: str
    address: str
    model: str
    max_model_len: int
    max_num_seqs: int
    block_size: int
    num_blocks: int
    load: LoadReported | None = None
    """None: idle, speeds unknown."""
    cached_blocks: Sequence[int] = ()
    role: Role = Role.BOTH
    pool_id: str = ""
    """Of its host's KV pool; empty: it keeps KV in its own cache alone."""
    kv_namespace_id: str = ""
    kv_block_bytes: int = 0
    """Of a block in the pool."""


@dataclass(frozen=True, slots=True)
class CacheReported:
    """Changes of a worker's prefix cache, applied in the order reset, removed, stored."""

    worker_id: str
    stored: Sequence[int] = ()
    removed: Sequence[int] = ()
    reset: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, with everything on it."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class FleetKnown:
    """Every worker that was registered at the start has joined or failed to; before, no model counts as unknown."""


@dataclass(frozen=True, slots=True)
class ProgramRestored:
    """A program as an earlier scheduler left it; told once. One that is live goes on from there: what its calls are
    ordered by shows it from the next one on."""

    program_id: str
    tenant: str
    started: float
    num_finished: int = 0
    num_restarted: int = 0
    executed_seconds: float = 0.0
    attained_seconds: float = 0.0
    waited_seconds: float = 0.0
    queue_seconds: float = 0.0
    usage: TokenUsage = TokenUsage()
    service_class: ServiceClass = ServiceClass.DEFAULT
    deadline: float = inf


Event: TypeAlias = (
    CallSubmitted
    | CallStarted
    | CallFinished
    | CallLost
    | ProgramEnded
    | CallForeseen
    | ForecasterLost
    | GatewayLost
    | WorkerJoined
    | LoadReported
    | CacheReported
    | WorkerLost
    | FleetKnown
    | ProgramRestored
    | CallHandedOff
    | RoleChanged
    | PoolJoined
    | PoolReported
    | PoolAway
    | PoolLost
)


@dataclass(frozen=True, slots=True)
class Place:
    """Run the call there."""

    link: int
    program_id: str
    call_id: str
    attempt: int
    worker_id: str
    worker_address: str
    priority: int
    """For the engine: smaller first."""
    expected_cached_tokens: int
    """Of the prompt, in the worker's cache or brought there."""
    waited_seconds: float
    """In the scheduler's queue, for this attempt."""
    kv: KVPlan = NO_PLAN
    cache: CacheNote = NO_NOTE
    prefill_token_seconds: float = 0.0
    """Engine seconds (engine_seconds.py) for a token of a prompt of the call's model; 0: not said."""
    step_seconds: float = 0.0
    """The same for a token of output."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the call; it is forgotten."""

    link: int
    program_id: str
    call_id: str
    reason: Reason
    message: str
    retry_after_seconds: float = 0.0
    """0: trying again is useless."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The call lost its worker and waits for another place."""

    program_id: str
    call_id: str


@dataclass(frozen=True, slots=True)
class ProgramChanged:
    """What would be lost with this scheduler changed; absent from the core: the program is over."""

    program_id: str
    completed_seconds: float | None = None
    """From its first call to its announced end; None: it has not ended, or nobody said that it did."""


Action: TypeAlias = Place | Reject | Restarted | ProgramChanged | Prefetch | ReleaseProgram
