"""Entries of the call log: what the gateway has to say of a call, a tool, a program."""

import time

from legato.v1 import call_pb2, gateway_pb2, scheduler_pb2, workflow_pb2
from services.gateway.request import Contents


def began(
    at: float, identity: call_pb2.CallIdentity, source: str, submit: scheduler_pb2.SubmitCall, contents: Contents
) -> workflow_pb2.LogEntry:
    """A call that came at `at`, in Unix time. `source`: who recognised it."""
    event = workflow_pb2.CallBegan(
        identity=identity,
        source=source,
        model=submit.model,
        prompt_tokens=submit.prompt_tokens,
        max_tokens=submit.max_tokens,
        messages=contents.hashes,
        message_tokens=contents.tokens,
        roles=contents.roles,
    )
    return workflow_pb2.LogEntry(at=at, began=event)


def ended(
    identity: call_pb2.CallIdentity,
    reason: "call_pb2.FinishReason.ValueType",
    usage: call_pb2.Usage,
    timings: call_pb2.Timings,
    placement: scheduler_pb2.Placement,
    *,
    error: str = "",
    output: int = 0,
) -> workflow_pb2.LogEntry:
    """A call that ended now. `placement`: its last one; an empty one: it had none."""
    event = workflow_pb2.CallEnded(
        program_id=identity.program_id,
        call_id=identity.call_id,
        reason=reason,
        error=error,
        usage=usage,
        timings=timings,
        worker_id=placement.worker_id,
        engine_seconds=_engine_seconds(usage, placement),
        output=output,
        cache=placement.cache if placement.HasField("cache") else None,
    )
    return workflow_pb2.LogEntry(at=time.time(), ended=event)


def tool_ran(report: gateway_pb2.ReportToolSpanRequest) -> workflow_pb2.LogEntry:
    """A tool that a client reports."""
    event = workflow_pb2.ToolRan(
        program_id=report.program_id,
        agent=report.agent,
        tool=report.tool,
        seconds=report.duration.ToNanoseconds() / 1e9,
        failed=report.failed,
        call_id=report.call_id,
    )
    return workflow_pb2.LogEntry(at=time.time(), tool=event)


def program_over(program_id: str) -> workflow_pb2.LogEntry:
    """A program that makes no more calls."""
    return workflow_pb2.LogEntry(at=time.time(), over=workflow_pb2.ProgramOver(program_id=program_id))


def _engine_seconds(usage: call_pb2.Usage, placement: scheduler_pb2.Placement) -> float:
    """0 where no token came, or where the scheduler does not say how fast the engine is."""
    if not usage.completion_tokens:
        return 0.0
    prefilled = max(0, usage.prompt_tokens - usage.cached_tokens)
    return prefilled * placement.prefill_token_seconds + usage.completion_tokens * placement.step_seconds
