"""What the call log is told of one call's end: how it ended, and what its output said to whoever reads it."""

import io

from legato.v1 import call_pb2, scheduler_pb2, worker_pb2, workflow_pb2
from services.common.errors import Failure
from services.gateway import log_entries
from services.gateway.content import output_hash
from services.gateway.neighbours import Log
from services.gateway.piece import Ending, Said


class Chronicle:
    """One call's. Visible text and tool calls gather as they come; nothing is made of them before the end.

    Of a call that was begun at another gateway only a part of the output comes by: `whole` is False then.
    """

    def __init__(self, log: Log, began: workflow_pb2.LogEntry, content_key: bytes, *, whole: bool) -> None:
        self._log = log
        self._began = began.began
        self._content_key = content_key
        self._whole = whole
        self._text = io.StringIO()
        self._pieces: list[call_pb2.ToolCall] = []

    def add(self, output: worker_pb2.CallOutput) -> None:
        """The next output."""
        if text := output.text:
            self._text.write(text)
        if output.tool_calls:
            self._pieces.extend(output.tool_calls)

    def forget(self) -> None:
        """The output begins anew."""
        self._text = io.StringIO()
        self._pieces.clear()

    def end(self, ending: Ending, placement: scheduler_pb2.Placement) -> Said:
        """It ended well; what it said. `placement`: its last one."""
        text, tool_calls, usage = self._text.getvalue(), self._tool_calls(), ending.usage
        content = output_hash(text, tool_calls, self._content_key)
        output = content if self._whole and (text or tool_calls) else 0
        entry = log_entries.ended(self._began.identity, ending.reason, usage, ending.timings, placement, output=output)
        entry.ended.tools.extend(name for name, _ in tool_calls if name)
        self._log.put(entry)
        return Said(text, tool_calls, content, usage.completion_tokens - usage.reasoning_tokens)

    def fail(
        self,
        reason: "call_pb2.FinishReason.ValueType",
        failure: Failure,
        completion_tokens: int,
        timings: call_pb2.Timings,
        placement: scheduler_pb2.Placement,
    ) -> None:
        """It did not. `placement`: its last one; an empty one: it had none."""
        prompt_tokens = self._began.prompt_tokens
        usage = call_pb2.Usage(
            prompt_tokens=prompt_tokens,
            cached_tokens=min(prompt_tokens, placement.expected_cached_tokens),
            completion_tokens=completion_tokens,
        )
        error = failure.reason.name
        self._log.put(log_entries.ended(self._began.identity, reason, usage, timings, placement, error=error))

    def _tool_calls(self) -> list[tuple[str, str]]:
        """Names and arguments, in the order in which they began."""
        names: dict[int, str] = {}
        arguments: dict[int, list[str]] = {}
        for piece in self._pieces:
            names[piece.index] = names.get(piece.index) or piece.name
            arguments.setdefault(piece.index, []).append(piece.arguments)
        return [(name, "".join(arguments[index])) for index, name in names.items()]
