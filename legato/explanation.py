"""Where a program's time went, as the cluster saw it: a waterfall of its calls and tools. Times are seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from legato.reply import Eta, Timings, Usage, eta_of, timings_of, usage_of
from legato.v1 import call_pb2, workflow_pb2

Outcome = Literal["running", "stop", "length", "tool_calls", "aborted", "failed"]
MessageRole = Literal["tools", "system", "user", "assistant", "tool output", "unknown"]

_OUTCOMES: dict[int, Outcome] = {
    call_pb2.FINISH_REASON_STOP: "stop",
    call_pb2.FINISH_REASON_LENGTH: "length",
    call_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    call_pb2.FINISH_REASON_ABORT: "aborted",
}
_ROLES: dict[str, MessageRole] = {"t": "tools", "s": "system", "u": "user", "a": "assistant", "o": "tool output"}


@dataclass(frozen=True, slots=True)
class CacheNote:
    """Why a call found in its worker's cache what it found, as far as the scheduler knows."""

    expected_tokens: int
    """Of its prompt, expected in the worker's cache or brought there."""
    lost_tokens: int
    """Of its prompt, that earlier calls of its program had on some worker, and that were not expected."""
    cause: str
    """What became of them: "evicted", "moved" (they are on a worker that was not chosen), "worker_lost"."""
    worker_id: str
    """That had them."""
    by_program: str
    """Evicted when this program's call had come to the worker; empty: not known."""
    paused_seconds: float
    """That the call waited because its program was paused."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Where a prompt departs from the one before it in its thread though it should extend it."""

    call_id: str
    """The call whose prompt it departs from."""
    message: int
    """Position of the first message that differs; the tools, if there are any, are the first message."""
    role: MessageRole
    kind: str
    """"edited", "reordered", "removed", "inserted", or "stripped" (an output came back otherwise than it was)."""
    lost_tokens: int
    """That had to be computed again."""
    lost_seconds: float
    """Engine seconds for that."""


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """One call."""

    call_id: str
    agent: str
    thread: str
    step: str
    began: float
    """From the program's start."""
    seconds: float
    """From its begin to its end; 0 while it runs."""
    outcome: Outcome
    error: str
    """What was wrong; empty: nothing."""
    usage: Usage
    timings: Timings
    worker_id: str
    parents: tuple[str, ...]
    """The calls that it waited for, as declared or found by content and time."""
    critical: bool
    """It is on the chain of calls and gaps that determined the program's time."""
    gap_seconds: float
    """From the end of its parents to its begin: tools and the client."""
    tools: tuple[str, ...]
    """That it asked for."""
    cache: CacheNote | None = None
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class ExplainedTool:
    """One run of a tool, as the client reported it."""

    tool: str
    agent: str
    began: float
    """From the program's start."""
    seconds: float
    failed: bool
    call_id: str
    """The call that asked for it; empty: not known."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The time before a call, back to the end of the calls that it waited for."""

    began: float
    seconds: float
    tools: tuple[str, ...]
    """That ran then, or that its parents had asked for; none: it was the client's."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one program."""

    program_id: str
    tenant: str
    workflow: str
    """What the cluster takes it for."""
    started: datetime
    ended: datetime | None
    calls: tuple[ExplainedCall, ...]
    """In the order in which they came."""
    tools: tuple[ExplainedTool, ...]
    eta: Eta | None = None
    """Of a program that lives."""
    num_forgotten: int = 0
    """Calls of it that are too old to be kept."""

    @property
    def seconds(self) -> float:
        """From its start to the last end of a call or a tool."""
        ends = [each.began + each.seconds for each in (*self.calls, *self.tools)]
        return max(ends, default=0.0)

    def gap(self, call: ExplainedCall) -> Gap:
        """Before that call. Tools that were reported count before those that were only asked for."""
        began = call.began - call.gap_seconds
        ran = [
            tool.tool
            for tool in self.tools
            if tool.began < call.began
            and tool.began + tool.seconds > began
            and (not tool.call_id or tool.call_id in call.parents)
        ]
        asked = [tool for parent in self.calls if parent.call_id in call.parents for tool in parent.tools]
        return Gap(began, call.gap_seconds, tuple(dict.fromkeys(ran or asked)))


def explanation_of(response: workflow_pb2.ExplainResponse) -> Explanation:
    """The wire's waterfall as a value."""
    return Explanation(
        program_id=response.program_id,
        tenant=response.tenant,
        workflow=response.workflow,
        started=datetime.fromtimestamp(response.started, UTC),
        ended=datetime.fromtimestamp(response.ended, UTC) if response.ended else None,
        calls=tuple(_call_of(call) for call in response.calls),
        tools=tuple(
            ExplainedTool(tool.tool, tool.agent, tool.began, tool.seconds, tool.failed, tool.call_id)
            for tool in response.tools
        ),
        eta=eta_of(response.eta) if response.HasField("eta") else None,
        num_forgotten=response.num_forgotten,
    )


def outcome_of(reason: int, error: str) -> Outcome:
    """Of a call that ended."""
    return "failed" if error else _OUTCOMES.get(reason, "failed")


def _call_of(call: workflow_pb2.ExplainedCall) -> ExplainedCall:
    identity = call.identity
    return ExplainedCall(
        call_id=identity.call_id,
        agent=identity.agent,
        thread=identity.thread,
        step=identity.step,
        began=call.began,
        seconds=call.seconds,
        outcome=outcome_of(call.reason, call.error) if call.HasField("timings") else "running",
        error=call.error,
        usage=usage_of(call.usage),
        timings=timings_of(call.timings),
        worker_id=call.worker_id,
        parents=tuple(call.parents),
        critical=call.critical,
        gap_seconds=call.gap_seconds,
        tools=tuple(call.tools),
        cache=cache_note_of(call.cache) if call.HasField("cache") else None,
        drift=_drift_of(call.drift) if call.HasField("drift") else None,
    )


def cache_note_of(note: workflow_pb2.CacheNote) -> CacheNote:
    """The wire's note as a value."""
    lost = (note.lost_tokens, note.cause, note.worker_id, note.by_program)
    return CacheNote(note.expected_tokens, *lost, note.paused_seconds)


def _drift_of(drift: workflow_pb2.PromptDrift) -> Drift:
    role = _ROLES.get(drift.role, "unknown")
    return Drift(drift.call_id, drift.message, role, drift.kind, drift.lost_tokens, drift.lost_seconds)
