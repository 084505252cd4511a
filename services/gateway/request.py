"""A request in no dialect: what the HTTP and gRPC doors make of what they were sent."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from legato.v1 import call_pb2
from services.gateway.urgency import NOTHING_SAID, Urgency

Conversation: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages as chat templates take them: role, content and, where there are any, name, tool_calls, tool_call_id,
reasoning_content."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be rendered with the model's template."""

    messages: Conversation
    tools: Sequence[Mapping[str, Any]] = ()
    """As the OpenAI API has them."""
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """For the template."""


Source: TypeAlias = Chat | str | Sequence[int]
"""What becomes the prompt: a conversation, text, or token ids."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The messages of a prompt, in order; the tools' schemas, where there are any, are the first of them."""

    hashes: "array[int]"
    """Of each, 64 bits (content.py)."""
    tokens: "array[int]"
    """Of each, by its part of the prompt's characters."""
    roles: str
    """Of each a letter: t tools, s system, u user, a assistant, o tool output."""


@dataclass(frozen=True, slots=True)
class Resume:
    """What the caller has of the output, from a gateway that died. What follows is wanted."""

    token_ids: Sequence[int]
    num_chars: int
    """Of visible text."""
    seed: int | None
    """That the other gateway drew, if it did."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be answered `choices` times. Everything was checked, except against the model's limits."""

    model: str
    """Empty: the only one."""
    source: Source
    sampling: call_pb2.Sampling
    constraint: call_pb2.Constraint = field(default_factory=call_pb2.Constraint)
    tools: Sequence[call_pb2.Tool] = ()
    tool_choice: call_pb2.ToolChoice = field(default_factory=call_pb2.ToolChoice)
    parallel_tool_calls: bool = True
    parse_reasoning: bool = False
    urgency: Urgency = NOTHING_SAID
    incremental: bool = False
    """The caller reads along."""
    choices: int = 1
    contents: Contents | None = None
    """Of `source`, if they were looked at already; its tokens are guesses until it is tokenized."""
    resume: Resume | None = None
    """Of a call that was begun elsewhere."""
