"""Answers in the shape of the OpenAI API: whole ones, and the pieces that their streams are made of.

What is the same in every chunk of a stream is put together once; a chunk is that around the JSON of its delta.
Beyond the API, `usage` comes with `timings` (seconds) and `worker_id`, and choices with `token_ids` if asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from legato.v1 import call_pb2
from services.gateway.piece import Ending, Piece

FINISH_REASONS: Final = {
    call_pb2.FINISH_REASON_STOP: "stop",
    call_pb2.FINISH_REASON_LENGTH: "length",
    call_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}
DONE: Final = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0  # JSON has no infinity


dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Compact JSON; logprobs and texts hold nothing that is not JSON."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What identifies an answer, and what it holds beyond the API."""

    id: str
    model: str
    created: int
    """Unix time in seconds."""
    token_ids: bool = False
    """Each choice comes with its `token_ids`, as vLLM's `return_token_ids` has it."""


class Shape(Protocol):
    """How one kind of answer is written."""

    @property
    def kind(self) -> str: ...
    @property
    def chunk_kind(self) -> str: ...
    def opening(self) -> str | None:
        """Fields of a choice's first chunk, before there is output."""
        ...

    def delta(self, index: int, piece: Piece) -> str | None:
        """Fields of a chunk's choice; None when the piece shows nothing."""
        ...

    def last(self) -> str:
        """Fields of a choice's finish chunk."""
        ...

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """A whole choice, but for its index and finish reason."""
        ...


class ChatShape:
    """chat.completion"""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def opening(self) -> str | None:
        return '"delta":{"role":"assistant","content":""},"logprobs":null'

    def delta(self, index: int, piece: Piece) -> str | None:
        if piece.text and not (self._logprobs or piece.reasoning or piece.tool_calls):  # most are
            return f'"delta":{{"content":{dumps(piece.text)}}},"logprobs":null'
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text or (piece.logprobs and not piece.reasoning):
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = [_tool_call_piece(call) for call in piece.tool_calls]
        if not delta:
            return None
        return f'"delta":{dumps(delta)},"logprobs":{dumps(self._content(piece)) if self._logprobs else "null"}'

    def last(self) -> str:
        return '"delta":{},"logprobs":null'

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        calls = [_tool_call(call) for call in piece.tool_calls]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not piece.text else piece.text,
            "refusal": None,
        }
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if calls:
            message["tool_calls"] = calls
        return {"message": message, "logprobs": self._content(piece) if self._logprobs else None}

    def _content(self, piece: Piece) -> dict[str, Any]:
        return {
            "content": [
                {**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]}
                for token in piece.logprobs
            ],
            "refusal": None,
        }


@dataclass(slots=True)
class CompletionShape:
    """text_completion"""

    logprobs: bool
    kind: str = "text_completion"
    chunk_kind: str = "text_completion"
    _offsets: dict[int, int] = field(default_factory=dict[int, int])
    """Characters of each choice's tokens so far."""

    def opening(self) -> str | None:
        return None

    def delta(self, index: int, piece: Piece) -> str | None:
        if not (piece.text or piece.logprobs):
            return None
        logprobs = dumps(self._columns(index, piece)) if self.logprobs else "null"
        return f'"text":{dumps(piece.text)},"logprobs":{logprobs}'

    def last(self) -> str:
        return '"text":"","logprobs":null'

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text, "logprobs": self._columns(index, piece) if self.logprobs else None}

    def _columns(self, index: int, piece: Piece) -> dict[str, Any]:
        offset = self._offsets.get(index, 0)
        offsets: list[int] = []
        for token in piece.logprobs:
            offsets.append(offset)
            offset += len(token.token)
        self._offsets[index] = offset
        return {
            "tokens": [token.token for token in piece.logprobs],
            "token_logprobs": [_value(token) for token in piece.logprobs],
            "top_logprobs": [{other.token: _value(other) for other in token.top} for token in piece.logprobs],
            "text_offset": offsets,
        }


class Chunks:
    """The events of a stream."""

    def __init__(self, answered: Answered, shape: Shape, *, include_usage: bool) -> None:
        self._shape = shape
        self._head = (
            f'data: {{"id":{dumps(answered.id)},"object":{dumps(shape.chunk_kind)},"created":{answered.created},'
            f'"model":{dumps(answered.model)},"system_fingerprint":null,"choices":['
        )
        self._include_usage = include_usage
        self._token_ids = answered.token_ids
        self._tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    def opening(self, num_choices: int) -> bytes:
        """What comes before any output."""
        fields = self._shape.opening()
        return b"" if fields is None else b"".join(self._chunk(index, fields) for index in range(num_choices))

    def piece(self, index: int, piece: Piece) -> bytes:
        """A piece of output and, if it is the last, the finish of its choice."""
        fields = self._shape.delta(index, piece)
        if self._token_ids and piece.token_ids:
            fields = f'{fields or self._shape.last()},"token_ids":{dumps(piece.token_ids)}'
        chunk = b"" if fields is None else self._chunk(index, fields)
        if piece.ending is None:
            return chunk
        return chunk + self._chunk(index, self._shape.last(), f'"{FINISH_REASONS.get(piece.ending.reason, "stop")}"')

    def closing(self, usage: call_pb2.Usage, endings: Sequence[Ending]) -> bytes:
        """What comes after all output."""
        if not self._include_usage:
            return DONE
        fields = dumps({"usage": usage_of(usage), **_extension(endings)})[1:]
        return f"{self._head}],{fields}\n\n".encode() + DONE

    def _chunk(self, index: int, fields: str, finish: str = "null") -> bytes:
        return f'{self._head}{{"index":{index},{fields},"finish_reason":{finish}}}{self._tail}'.encode()


def whole(
    answered: Answered, shape: Shape, pieces: Sequence[Piece], usage: call_pb2.Usage, endings: Sequence[Ending]
) -> bytes:
    """A whole answer, of one piece for each choice."""
    choices: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        token_ids = {"token_ids": piece.token_ids} if answered.token_ids else {}
        reason = _finish_reason(piece)
        choices.append({"index": index, **shape.choice(index, piece), **token_ids, "finish_reason": reason})
    answer = {
        "id": answered.id,
        "object": shape.kind,
        "created": answered.created,
        "model": answered.model,
        "choices": choices,
        "usage": usage_of(usage),
        "system_fingerprint": None,
        **_extension(endings),
    }
    return dumps(answer).encode()


def usage_of(usage: call_pb2.Usage) -> dict[str, Any]:
    """`usage` of the API."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _extension(endings: Sequence[Ending]) -> dict[str, Any]:
    if not endings:
        return {}
    last = endings[-1]
    timings = last.timings
    return {
        "timings": {
            "queue_seconds": timings.queue_seconds,
            "prefill_seconds": timings.prefill_seconds,
            "decode_seconds": timings.decode_seconds,
            "restarts": timings.restarts,
        },
        "worker_id": last.worker_id,
    }


def _finish_reason(piece: Piece) -> str | None:
    return FINISH_REASONS.get(piece.ending.reason, "stop") if piece.ending else None


def _tool_call(call: call_pb2.ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool_call_piece(call: call_pb2.ToolCall) -> dict[str, Any]:
    if call.id or call.name:
        return {"index": call.index, **_tool_call(call)}
    return {"index": call.index, "function": {"arguments": call.arguments}}


def _logprob(token: call_pb2.TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": _value(token),
        "bytes": list(token.token_bytes or token.token.encode()),
    }


def _value(token: call_pb2.TokenLogprob) -> float:
    return max(token.logprob, _LEAST_LOGPROB) if token.logprob == token.logprob else _LEAST_LOGPROB
