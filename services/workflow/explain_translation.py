"""Entries of the call log to what the explainer needs beside the core's events, and what it answers to what travels."""

from typing import Any

from legato.v1 import call_pb2, workflow_pb2
from services.common.cache_note import CacheNote
from services.workflow.explain import Detail, Drift, ExplainedCall, ExplainedTool, Explanation

_CACHE_FIELDS = ("expected_tokens", "lost_tokens", "cause", "worker_id", "by_program", "paused_seconds")


def program_of(entry: workflow_pb2.LogEntry) -> str:
    """The program that an entry is about; empty for what this version does not know."""
    match entry.WhichOneof("event"):
        case "began":
            return entry.began.identity.program_id
        case "ended":
            return entry.ended.program_id
        case "tool":
            return entry.tool.program_id
        case "over":
            return entry.over.program_id
        case _:
            return ""


def detail_of(entry: workflow_pb2.LogEntry) -> Detail:
    """What an entry says beside its event."""
    match entry.WhichOneof("event"):
        case "began":
            return Detail(source=entry.began.source)
        case "ended":
            ended, timings = entry.ended, entry.ended.timings
            return Detail(
                reason=ended.reason,
                error=ended.error,
                reasoning_tokens=ended.usage.reasoning_tokens,
                queue_seconds=timings.queue_seconds,
                prefill_seconds=timings.prefill_seconds,
                decode_seconds=timings.decode_seconds,
                restarts=timings.restarts,
                worker_id=ended.worker_id,
                cache=CacheNote(**_fields(ended.cache)) if ended.HasField("cache") else None,
            )
        case _:
            return Detail()


def response_of(explanation: Explanation) -> workflow_pb2.ExplainResponse:
    """As it travels, without an ETA."""
    return workflow_pb2.ExplainResponse(
        program_id=explanation.program_id,
        tenant=explanation.tenant,
        workflow=explanation.workflow,
        started=explanation.started,
        ended=explanation.ended,
        calls=[_call(call) for call in explanation.calls],
        tools=[_tool(tool) for tool in explanation.tools],
        num_forgotten=explanation.num_forgotten,
    )


def _call(call: ExplainedCall) -> workflow_pb2.ExplainedCall:
    detail, ended = call.detail, call.ended
    return workflow_pb2.ExplainedCall(
        identity=_identity(call),
        began=call.at,
        seconds=call.seconds,
        reason=detail.reason,  # pyright: ignore[reportArgumentType]  # as it came from the wire
        error=detail.error,
        usage=None if ended is None else _usage(call),
        timings=None
        if ended is None
        else call_pb2.Timings(
            queue_seconds=detail.queue_seconds,
            prefill_seconds=detail.prefill_seconds,
            decode_seconds=detail.decode_seconds,
            restarts=detail.restarts,
        ),
        worker_id=detail.worker_id,
        parents=call.parents,
        critical=call.critical,
        gap_seconds=call.gap_seconds,
        tools=() if ended is None else ended.tools,
        cache=None if detail.cache is None else workflow_pb2.CacheNote(**_fields(detail.cache)),
        drift=None if call.drift is None else _drift(call.drift),
    )


def _identity(call: ExplainedCall) -> call_pb2.CallIdentity:
    began = call.began
    return call_pb2.CallIdentity(
        program_id=began.program_id,
        call_id=began.call_id,
        tenant=began.tenant,
        agent=began.agent,
        thread=began.thread,
        step=began.step,
        parents=began.parents,
        workflow=began.workflow,
    )


def _usage(call: ExplainedCall) -> call_pb2.Usage:
    ended = call.ended
    assert ended is not None
    return call_pb2.Usage(
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=ended.output_tokens,
        cached_tokens=ended.cached_tokens,
        reasoning_tokens=call.detail.reasoning_tokens,
    )


def _drift(drift: Drift) -> workflow_pb2.PromptDrift:
    return workflow_pb2.PromptDrift(
        call_id=drift.call_id,
        message=drift.message,
        role=drift.role,
        kind=drift.kind,
        lost_tokens=drift.lost_tokens,
        lost_seconds=drift.lost_seconds,
    )


def _tool(tool: ExplainedTool) -> workflow_pb2.ExplainedTool:
    return workflow_pb2.ExplainedTool(
        tool=tool.tool,
        agent=tool.agent,
        began=tool.at,
        seconds=tool.seconds,
        failed=tool.failed,
        call_id=tool.call_id,
    )


def _fields(note: workflow_pb2.CacheNote | CacheNote) -> dict[str, Any]:
    return {name: getattr(note, name) for name in _CACHE_FIELDS}
