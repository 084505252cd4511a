"""What comes back from a call: pieces while it runs, a `Reply` at the end."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from legato.errors import CallCancelled, InternalError
from legato.messages import Message, ToolCall
from legato.v1 import call_pb2, gateway_pb2

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Generated, reasoning included."""
    cached_tokens: int = 0
    """Of the prompt, how many came from a cache."""
    reasoning_tokens: int = 0
    """Of the completion, how many were reasoning."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a call's time went."""

    queue_seconds: float = 0.0
    """Waiting in the scheduler and in the engine's own queue."""
    prefill_seconds: float = 0.0
    """From the engine's start on it to its first token."""
    decode_seconds: float = 0.0
    """From the first to the last token."""
    restarts: int = 0
    """How often the call was started again after losing its worker."""


@dataclass(frozen=True, slots=True)
class Eta:
    """When a program is expected to be complete, in seconds from the moment when it was said."""

    expected_seconds: float
    low_seconds: float
    """With a chance of 0.1 it is sooner than this."""
    high_seconds: float
    """With a chance of 0.1 it is later than this."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability of one generated token."""

    token_id: int
    token: str
    logprob: float
    token_bytes: bytes = b""
    """Where the text alone is not valid UTF-8."""
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens at this position, best first."""


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A piece of a tool call; the arguments of pieces with equal `index` concatenate."""

    index: int
    id: str
    """Empty after the first piece."""
    name: str
    """Empty after the first piece."""
    arguments: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream delivers at once: one engine step's output or several."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...]
    """One for each token, where asked for."""
    program_id: str
    call_id: str
    model: str
    worker_id: str
    """The worker that finished it."""
    eta: Eta | None = None
    """The program's, as it was said with the call's first output; None: nothing is known."""

    @property
    def message(self) -> Message:
        """The answer as the next message of the conversation."""
        return Message("assistant", self.text, tool_calls=self.tool_calls, reasoning=self.reasoning)

    def json(self) -> Any:
        """The text as JSON (see `response_schema`). Raises ValueError when it is none: `finish_reason` may say why."""
        return json.loads(self.text)


class Assembly:
    """Puts the events of one call together."""

    def __init__(self, program_id: str, call_id: str) -> None:
        self._program_id = program_id
        self._call_id = call_id
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, ToolCall] = {}
        self._logprobs: list[TokenLogprob] = []
        self._eta: Eta | None = None

    def add(self, event: gateway_pb2.ChatResponse) -> Piece | None:
        """Take the next event; returns what it brought, None for one without content."""
        if event.HasField("eta"):
            self._eta = eta_of(event.eta)
        piece = Piece(
            event.text,
            event.reasoning,
            tuple(ToolCallPiece(call.index, call.id, call.name, call.arguments) for call in event.tool_calls),
            tuple(_logprob(token) for token in event.logprobs),
            event.num_tokens,
        )
        self._text.append(piece.text)
        self._reasoning.append(piece.reasoning)
        self._logprobs.extend(piece.logprobs)
        for part in piece.tool_calls:
            known = self._tool_calls.get(part.index, ToolCall("", "", ""))
            self._tool_calls[part.index] = ToolCall(
                known.id or part.id, known.name or part.name, known.arguments + part.arguments
            )
        return piece if piece != Piece() else None

    def finish(self, finish: gateway_pb2.ChatFinish) -> Reply:
        """The whole answer. Raises CallCancelled or InternalError for a call that did not end by itself."""
        return Reply(
            "".join(self._text),
            "".join(self._reasoning),
            tuple(self._tool_calls[index] for index in sorted(self._tool_calls)),
            _finish_reason(finish.reason, self._call_id),
            usage_of(finish.usage),
            timings_of(finish.timings),
            tuple(self._logprobs),
            self._program_id,
            self._call_id,
            finish.model,
            finish.worker_id,
            self._eta,
        )


def usage_of(usage: call_pb2.Usage) -> Usage:
    """The wire's usage as a value."""
    return Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)


def timings_of(timings: call_pb2.Timings) -> Timings:
    """The wire's timings as a value."""
    return Timings(timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds, timings.restarts)


def eta_of(eta: call_pb2.Eta) -> Eta:
    """The wire's estimate as a value."""
    return Eta(eta.expected_seconds, eta.low_seconds, eta.high_seconds)


def _logprob(token: call_pb2.TokenLogprob) -> TokenLogprob:
    top = tuple(_logprob(other) for other in token.top)
    return TokenLogprob(token.token_id, token.token, token.logprob, token.token_bytes, top)


def _finish_reason(reason: int, call_id: str) -> FinishReason:
    match reason:
        case call_pb2.FINISH_REASON_STOP:
            return "stop"
        case call_pb2.FINISH_REASON_LENGTH:
            return "length"
        case call_pb2.FINISH_REASON_TOOL_CALLS:
            return "tool_calls"
        case call_pb2.FINISH_REASON_ABORT:
            raise CallCancelled(f"call {call_id} was aborted")
        case _:
            raise InternalError(f"the engine failed on call {call_id}")
