"""Pieces of output, and how those that nobody took yet become one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from legato.v1 import call_pb2, worker_pb2


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended well."""

    reason: "call_pb2.FinishReason.ValueType"
    usage: call_pb2.Usage
    timings: call_pb2.Timings
    worker_id: str


@dataclass(frozen=True, slots=True)
class Said:
    """What all of an output says to whoever reads it: no reasoning."""

    text: str
    tool_calls: Sequence[tuple[str, str]]
    """Names and arguments, as JSON text."""
    content: int
    """Its hash (content.py), as it will stand in later prompts."""
    tokens: int


@dataclass(slots=True)
class Piece:
    """What came since the last one."""

    offset: int
    """Output tokens before it."""
    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    reasoning: str = ""
    tool_calls: list[call_pb2.ToolCall] = field(default_factory=list[call_pb2.ToolCall])
    logprobs: list[call_pb2.TokenLogprob] = field(default_factory=list[call_pb2.TokenLogprob])
    ending: Ending | None = None
    """On the last one."""


class Pending:
    """Output that waits to be taken, merged: its size is that of the call's own output, however slow the reader is."""

    def __init__(self, num_taken: int = 0) -> None:
        """`num_taken`: tokens that were taken elsewhere."""
        self._outputs: list[worker_pb2.CallOutput] = []
        self._num_taken = num_taken

    def add(self, output: worker_pb2.CallOutput) -> None:
        self._outputs.append(output)
        if len(self._outputs) >= 64:  # a message is larger than what it says
            self._outputs = [_merged(self._outputs)]

    def clear(self) -> None:
        self._outputs.clear()

    def take(self) -> Piece | None:
        """Everything so far; None when there is nothing to show."""
        if not self._outputs:
            return None
        outputs, self._outputs = self._outputs, []
        piece = Piece(self._num_taken)
        if len(outputs) == 1:
            only = outputs[0]
            piece.text, piece.reasoning = only.text, only.reasoning
            piece.tool_calls = list(only.tool_calls)
        else:
            piece.text = "".join(output.text for output in outputs)
            piece.reasoning = "".join(output.reasoning for output in outputs)
            piece.tool_calls = _joined([call for output in outputs for call in output.tool_calls])
        piece.logprobs = [token for output in outputs for token in output.logprobs]
        piece.token_ids = [token_id for output in outputs for token_id in output.token_ids]
        self._num_taken += len(piece.token_ids)
        return piece


def _merged(outputs: list[worker_pb2.CallOutput]) -> worker_pb2.CallOutput:
    merged = worker_pb2.CallOutput(
        text="".join(output.text for output in outputs), reasoning="".join(output.reasoning for output in outputs)
    )
    merged.tool_calls.extend(_joined([call for output in outputs for call in output.tool_calls]))
    for output in outputs:
        merged.token_ids.extend(output.token_ids)
        merged.logprobs.extend(output.logprobs)
    return merged


def _joined(calls: list[call_pb2.ToolCall]) -> list[call_pb2.ToolCall]:
    """Neighbouring pieces of one tool call as one."""
    result: list[call_pb2.ToolCall] = []
    texts: list[list[str]] = []
    for call in calls:
        if result and not call.id and call.index == result[-1].index:
            texts[-1].append(call.arguments)
        else:
            result.append(call_pb2.ToolCall(index=call.index, id=call.id, name=call.name))
            texts.append([call.arguments])
    for call, parts in zip(result, texts, strict=True):
        call.arguments = "".join(parts)
    return result
