"""A gRPC request as a request in no dialect, and pieces of output as responses."""

import json
from typing import Any, Final, cast

from legato.v1 import call_pb2, gateway_pb2
from services.common.errors import Failure, Reason
from services.gateway.identity import Identity
from services.gateway.piece import Piece
from services.gateway.request import Chat, Request, Resume
from services.gateway.run import Run
from services.gateway.urgency import MOST_OUTPUT_TOKENS, MOST_PRIORITY, Urgency, checked_deadline

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_RANGES: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-9, 1.0),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (1e-9, 2.0),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "logprobs": (0, 20),
}


def request_of(asked: gateway_pb2.ChatRequest, default_max_tokens: int) -> Request:
    """Raises Failure with the field that is not taken."""
    if not asked.messages:
        raise _refuse("messages", "at least one message is needed")
    return Request(
        model=asked.model,
        source=Chat(
            messages=[_message(message, f"messages[{index}]") for index, message in enumerate(asked.messages)],
            tools=[_tool(tool, f"tools[{index}]") for index, tool in enumerate(asked.tools)],
            variables=_object(asked.chat_template_kwargs_json, "chat_template_kwargs_json"),
        ),
        sampling=_sampling(asked.sampling, default_max_tokens),
        constraint=asked.constraint,
        tools=asked.tools,
        tool_choice=_tool_choice(asked),
        parallel_tool_calls=asked.parallel_tool_calls or not asked.HasField("parallel_tool_calls"),
        parse_reasoning=True,
        urgency=_urgency(asked),
        incremental=asked.incremental,
        resume=_resume(asked.resume) if asked.HasField("resume") else None,
    )


def response_of(piece: Piece, model: str) -> gateway_pb2.ChatResponse:
    """What a piece says."""
    response = gateway_pb2.ChatResponse(
        offset=piece.offset,
        text=piece.text,
        reasoning=piece.reasoning,
        tool_calls=piece.tool_calls,
        logprobs=piece.logprobs,
        num_tokens=len(piece.token_ids),
        token_ids=piece.token_ids,
    )
    if ending := piece.ending:
        finish = gateway_pb2.ChatFinish(
            reason=ending.reason, usage=ending.usage, timings=ending.timings, worker_id=ending.worker_id, model=model
        )
        response.finish.CopyFrom(finish)
    return response


def introduce(response: gateway_pb2.ChatResponse, identity: Identity, run: Run) -> None:
    """Add what the first response says beside its piece."""
    response.identity.CopyFrom(identity.message())
    if (eta := run.eta) is not None:
        response.eta.CopyFrom(eta)
    if (seed := run.drawn_seed) is not None:
        response.seed = seed


def _resume(asked: gateway_pb2.Resume) -> Resume:
    if asked.num_chars and not asked.token_ids:
        raise _refuse("resume.num_chars", f"must be 0 without resume.token_ids, got {asked.num_chars}")
    return Resume(asked.token_ids, asked.num_chars, asked.seed if asked.HasField("seed") else None)


def _urgency(asked: gateway_pb2.ChatRequest) -> Urgency:
    if abs(asked.priority) > MOST_PRIORITY:
        raise _refuse("priority", f"must be in [-{MOST_PRIORITY}, {MOST_PRIORITY}], got {asked.priority}")
    if asked.service_class not in call_pb2.ServiceClass.values():
        raise _refuse("service_class", f"must be interactive, default or batch, got {asked.service_class}")
    deadline = checked_deadline(asked.program_deadline_seconds, "program_deadline_seconds")
    expected = min(asked.expected_output_tokens, MOST_OUTPUT_TOKENS)
    return Urgency(asked.service_class, asked.priority, deadline, expected)


def _message(message: gateway_pb2.Message, field: str) -> dict[str, Any]:
    if message.role not in _ROLES:
        raise _refuse(f"{field}.role", f"must be one of {', '.join(_ROLES)}, got {message.role[:50]!r}")
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        result["name"] = message.name
    if message.tool_calls:
        result["tool_calls"] = [_called(call) for call in message.tool_calls]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        result["reasoning_content"] = message.reasoning
    return result


def _called(call: call_pb2.ToolCall) -> dict[str, Any]:
    try:
        arguments: object = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: call_pb2.Tool, field: str) -> dict[str, Any]:
    if not tool.name:
        raise _refuse(f"{field}.name", "is needed")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json:
        function["parameters"] = _object(tool.parameters_json, f"{field}.parameters_json")
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(asked: gateway_pb2.ChatRequest) -> call_pb2.ToolChoice:
    choice = asked.tool_choice
    if choice.mode == call_pb2.ToolChoice.MODE_REQUIRED and not asked.tools:
        raise _refuse("tool_choice", "MODE_REQUIRED needs tools")
    if choice.mode == call_pb2.ToolChoice.MODE_NAMED and choice.name not in [tool.name for tool in asked.tools]:
        raise _refuse("tool_choice.name", f"there is no tool named {choice.name[:100]!r}")
    return choice


def _sampling(asked: call_pb2.Sampling, default_max_tokens: int) -> call_pb2.Sampling:
    for name, (least, most) in _RANGES.items():
        if asked.HasField(name):  # pyright: ignore[reportArgumentType] (the stub wants literals)
            value: float = getattr(asked, name)
            if not least <= value <= most:  # a NaN is not, either
                raise _refuse(f"sampling.{name}", f"must be in [{least}, {most}], got {value}")
    if not all(-100 <= bias <= 100 for bias in asked.logit_bias.values()):
        raise _refuse("sampling.logit_bias", "must be in [-100, 100]")
    if not all(asked.stop):
        raise _refuse("sampling.stop", "must not be empty")
    sampling = call_pb2.Sampling()
    sampling.CopyFrom(asked)
    if not sampling.HasField("max_tokens") and default_max_tokens:
        sampling.max_tokens = default_max_tokens
    if sampling.HasField("max_tokens") and sampling.min_tokens > sampling.max_tokens:
        raise _refuse("sampling.min_tokens", f"must not exceed max_tokens ({sampling.max_tokens})")
    return sampling


def _object(text: str, field: str) -> dict[str, Any]:
    """A JSON object; empty for no text."""
    if not text:
        return {}
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refuse(field, f"is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise _refuse(field, "must be a JSON object")
    return cast("dict[str, Any]", value)  # the keys of a JSON object are strings


def _refuse(field: str, message: str) -> Failure:
    return Failure(Reason.INVALID_ARGUMENT, f"{field}: {message}", field)
