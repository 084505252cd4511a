"""What the explainer is told beside the core's events, and what it answers. Times are seconds."""

from dataclasses import dataclass
from typing import Literal

from services.common.cache_note import CacheNote
from services.workflow.events import CallBegan, CallEnded

DriftKind = Literal["edited", "reordered", "removed", "inserted", "stripped"]


@dataclass(frozen=True, slots=True)
class Detail:
    """Of an entry of the log, what nobody else needs to know."""

    source: str = ""
    """Of a call that began: which resolver recognised it. The rest is of one that ended."""
    reason: int = 0
    """As on the wire."""
    error: str = ""
    reasoning_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    restarts: int = 0
    worker_id: str = ""
    cache: CacheNote | None = None


NO_DETAIL = Detail()


@dataclass(frozen=True, slots=True)
class Drift:
    """Where a prompt departs from one before it though it should extend it."""

    call_id: str
    """Of the prompt before."""
    message: int
    """Position of the first message that differs."""
    role: str
    kind: DriftKind
    lost_tokens: int
    """Behind that point, that the prompt before had too, or that could have been kept."""
    lost_seconds: float = 0.0
    """Engine seconds to compute them again."""


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """One call. Of a call that runs still, `ended` is None."""

    began: CallBegan
    """Without its messages."""
    ended: CallEnded | None
    detail: Detail
    at: float
    """From the program's start to its begin."""
    seconds: float
    """From its begin to its end; 0 while it runs."""
    parents: tuple[str, ...]
    critical: bool
    gap_seconds: float
    """From the end of its parents to its begin; 0 without parents."""
    drift: Drift | None


@dataclass(frozen=True, slots=True)
class ExplainedTool:
    """One run of a tool."""

    tool: str
    agent: str
    at: float
    """From the program's start to its begin."""
    seconds: float
    failed: bool
    call_id: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one program."""

    program_id: str
    tenant: str
    workflow: str
    started: float
    """Unix seconds."""
    ended: float
    """The same; 0: it lives."""
    calls: tuple[ExplainedCall, ...]
    """In the order in which they came."""
    tools: tuple[ExplainedTool, ...]
    num_forgotten: int
