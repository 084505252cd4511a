"""A conversation as plain values: messages, the tools that a model may call, and its calls of them.

Wherever messages are wanted, a string stands for one message of the user, and mappings in the shape of the OpenAI API
are taken too; what Legato cannot carry (images, unknown keys of a message's parts) is refused with `InvalidRequest`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

from legato.errors import InvalidRequest
from legato.schema import parameters_of
from legato.v1 import call_pb2, gateway_pb2

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model asks for a tool."""

    id: str
    name: str
    arguments: str = "{}"
    """JSON text, as the model wrote it; it may be malformed."""

    def parsed(self) -> dict[str, Any]:
        """The arguments. Raises ValueError when the model did not write a JSON object."""
        value: object = json.loads(self.arguments or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"arguments of {self.name} are no JSON object: {self.arguments}")
        return cast("dict[str, Any]", value)  # the keys of a JSON object are strings


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str = ""
    name: str = ""
    """Who speaks, where several do."""
    tool_calls: tuple[ToolCall, ...] = ()
    """On an assistant's message: the tools it called."""
    tool_call_id: str = ""
    """On a tool's message: the call that it answers."""
    reasoning: str = ""
    """On an assistant's message: its reasoning."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    """For the model."""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of the arguments."""
    strict: bool = False
    """The model must keep to the schema exactly."""

    @classmethod
    def of(cls, function: Callable[..., object], *, strict: bool = False) -> Self:
        """Describe a function by its name, its docstring and its type hints.

        Parameters may be str, int, float, bool, Literal, list, dict or unions of those. Raises TypeError for others.
        """
        description = " ".join((function.__doc__ or "").strip().partition("\n\n")[0].split())
        return cls(function.__name__, description, parameters_of(function), strict)


MessageLike = Message | Mapping[str, Any]
"""A message, or a mapping in the shape of the OpenAI API."""

Messages = str | Sequence[MessageLike]
"""A conversation; a string is one message of the user."""


def system(content: str) -> Message:
    """Instructions for the model."""
    return Message("system", content)


def user(content: str, *, name: str = "") -> Message:
    """What the user says."""
    return Message("user", content, name)


def assistant(content: str, *, name: str = "", tool_calls: Sequence[ToolCall] = ()) -> Message:
    """What the model said; `Reply.message` is the usual source."""
    return Message("assistant", content, name, tuple(tool_calls))


def tool_result(call: ToolCall | str, content: str) -> Message:
    """What a tool answered to a call, given the call or its id."""
    if isinstance(call, ToolCall):
        return Message("tool", content, call.name, tool_call_id=call.id)
    return Message("tool", content, tool_call_id=call)


def to_wire(messages: Messages) -> list[gateway_pb2.Message]:
    """The messages as the gateway takes them. Raises InvalidRequest with the path of what is wrong."""
    if isinstance(messages, str):
        return [gateway_pb2.Message(role="user", content=messages)]
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: MessageLike, path: str) -> gateway_pb2.Message:
    match message:
        case Message():
            return gateway_pb2.Message(
                role=message.role,
                content=message.content,
                name=message.name,
                tool_calls=[
                    call_pb2.ToolCall(index=index, id=call.id, name=call.name, arguments=call.arguments)
                    for index, call in enumerate(message.tool_calls)
                ],
                tool_call_id=message.tool_call_id,
                reasoning=message.reasoning,
            )
        case Mapping():
            return _from_mapping(message, path)
        case _:  # pyright: ignore[reportUnnecessaryComparison]  # callers without a type checker
            raise InvalidRequest(f"{path} must be a Message or a mapping, not {type(message).__name__}", field=path)


def _from_mapping(message: Mapping[str, Any], path: str) -> gateway_pb2.Message:
    wire = gateway_pb2.Message(content=_text(message.get("content"), f"{path}.content"))
    for key, value in (
        ("role", message.get("role")),
        ("name", message.get("name")),
        ("tool_call_id", message.get("tool_call_id")),
        ("reasoning", message.get("reasoning") or message.get("reasoning_content")),
    ):
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidRequest(f"{path}.{key} must be a string", field=f"{path}.{key}")
        setattr(wire, key, value)
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    for index, call in enumerate(calls):
        try:
            function: Mapping[str, str] = call["function"]
            wire.tool_calls.add(index=index, id=call["id"], name=function["name"], arguments=function["arguments"])
        except (KeyError, TypeError) as error:
            at = f"{path}.tool_calls[{index}]"
            raise InvalidRequest(f"{at} must have id, function.name and function.arguments", field=at) from error
    return wire


def _text(content: object, path: str) -> str:
    """The text of OpenAI content: a string, nothing, or parts of text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{path} must be a string or a list of parts", field=path)
    texts: list[str] = []
    for index, part in enumerate(cast("Sequence[object]", content)):
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                raise InvalidRequest(f"{path}[{index}] is no text part; only text is served", field=f"{path}[{index}]")
    return "".join(texts)
