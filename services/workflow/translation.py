"""Entries of the call log to what the core is told, and what it answers to what travels."""

from array import array
from math import inf
from typing import Final

from legato.v1 import call_pb2, workflow_pb2
from services.common.foretold import Foretold
from services.workflow.events import CallBegan, CallEnded, Event, Foreseen, ProgramOver, ToolRan

_COMPLETED: Final = frozenset(
    (call_pb2.FINISH_REASON_STOP, call_pb2.FINISH_REASON_LENGTH, call_pb2.FINISH_REASON_TOOL_CALLS)
)
"""The output is as long as it wanted to be, or was let to be."""

_MOST_SECONDS: Final = 1e6
"""Nothing takes longer, eleven days; who says so is not believed."""


def event_of(entry: workflow_pb2.LogEntry) -> Event | None:
    """What happened; None: something that this version does not know, that names no program, or at no time."""
    if not 0 <= entry.at < inf:
        return None
    match entry.WhichOneof("event"):
        case "began":
            return _began(entry.began)
        case "ended":
            return _ended(entry.ended)
        case "tool":
            tool = entry.tool
            if not tool.program_id or not 0 <= tool.seconds <= _MOST_SECONDS:
                return None
            return ToolRan(tool.program_id, tool.tool, tool.seconds, tool.agent, tool.failed, tool.call_id)
        case "over":
            return ProgramOver(entry.over.program_id) if entry.over.program_id else None
        case _:
            return None


def _began(began: workflow_pb2.CallBegan) -> CallBegan | None:
    identity = began.identity
    if not identity.program_id:
        return None
    return CallBegan(
        identity.program_id,
        identity.call_id,
        began.prompt_tokens,
        identity.tenant,
        identity.workflow,
        identity.agent,
        identity.thread,
        identity.step,
        tuple(identity.parents),
        began.model,
        array("Q", began.messages),
        tuple(began.message_tokens),
        began.roles,
    )


def _ended(ended: workflow_pb2.CallEnded) -> CallEnded | None:
    if not ended.program_id:
        return None
    usage = ended.usage
    return CallEnded(
        ended.program_id,
        ended.call_id,
        ended.reason in _COMPLETED and not ended.error,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        ended.engine_seconds if 0 <= ended.engine_seconds <= _MOST_SECONDS else 0.0,
        ended.output,
        tuple(ended.tools),
    )


def foretold_of(foreseen: Foreseen, revision: int) -> Foretold:
    """As it travels."""
    return Foretold(
        *(foreseen.program_id, foreseen.thread, foreseen.agent, foreseen.call_id),
        *(foreseen.forecast, revision, foreseen.valid_seconds),
    )
