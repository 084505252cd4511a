"""vLLM's output parsers, isolated: text and tokens in, visible text, reasoning and pieces of tool calls out.

The parsers are those of vLLM's own HTTP server (`vllm.parser`), driven as it drives them: a chat request goes through
`adjust_request`, which also turns a required tool call into a grammar, then every delta through `parse_delta`.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMClientError
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.sampling_params import StructuredOutputsParams
from vllm.tokenizers import TokenizerLike

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure, Reason
from services.worker.config import WorkerSection
from services.worker.vllm_engine.sampling import constraint


@dataclass(slots=True)
class Delta:
    """What new tokens amounted to."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[call_pb2.ToolCall] = field(default_factory=list[call_pb2.ToolCall])


class OutputParser:
    """Splits one call's output. With nothing to split it passes text through."""

    def __init__(self, parser: Parser | None, request: ChatCompletionRequest) -> None:
        self._parser = parser
        self._request = request

    @property
    def structured_outputs(self) -> StructuredOutputsParams | None:
        """The call's constraint, joined with what its tool choice asks for."""
        return self._request.extract_structured_outputs()

    @property
    def skip_special_tokens(self) -> bool:
        """Whether the parser wants text without special tokens."""
        return self._request.skip_special_tokens

    def feed(self, text: str, token_ids: Sequence[int], prompt_token_ids: list[int], *, finished: bool) -> Delta:
        """Take the next piece of output. `prompt_token_ids` counts on the first piece."""
        if self._parser is None:
            return Delta(text)
        message = self._parser.parse_delta(text, list(token_ids), self._request, prompt_token_ids, finished=finished)
        if message is None:
            return Delta()
        return Delta(
            text=message.content or "",
            reasoning=message.reasoning or "",
            tool_calls=[
                call_pb2.ToolCall(
                    index=piece.index,
                    id=piece.id or "",
                    name=(piece.function and piece.function.name) or "",
                    arguments=(piece.function and piece.function.arguments) or "",
                )
                for piece in message.tool_calls
            ],
        )

    def count_reasoning(self, token_ids: Sequence[int]) -> int:
        """How many of all output tokens were reasoning."""
        return 0 if self._parser is None else self._parser.count_reasoning_tokens(token_ids)


class OutputParsers:
    """Makes parsers as the settings name them; raises TypeError for names that vLLM does not know."""

    def __init__(self, tokenizer: TokenizerLike, section: WorkerSection) -> None:
        self._tokenizer = tokenizer
        self._tool_parser = section.tool_parser
        self._reasoning_parser = section.reasoning_parser
        self._tool_strict_level = section.tool_strict_level
        self._class(True, True)

    def make(self, start: worker_pb2.StartCall) -> OutputParser:
        """The parser for one call. Raises Failure when its tools cannot be served."""
        choice = _tool_choice(start)
        if choice not in (None, "none", "auto") and not self._tool_parser:
            raise Failure(Reason.INVALID_ARGUMENT, "this model cannot be made to call tools", "tool_choice")
        request = _request(start, choice)
        parser_class = self._class(choice not in (None, "none"), start.parse_reasoning)
        if parser_class is None:
            return OutputParser(None, request)
        parser = parser_class(self._tokenizer, list(request.tools or ()))
        try:
            adjusted = parser.adjust_request(request)
        except (VLLMClientError, ValueError, TypeError) as error:
            raise Failure(Reason.INVALID_ARGUMENT, str(error), "tools") from error
        assert isinstance(adjusted, ChatCompletionRequest)
        return OutputParser(parser, adjusted)

    @functools.cache  # noqa: B019 (at most four entries, and the instance lives as long as the process)
    def _class(self, tools: bool, reasoning: bool) -> type[Parser] | None:
        return ParserManager.get_parser(
            tool_parser_name=(self._tool_parser if tools else "") or None,
            reasoning_parser_name=(self._reasoning_parser if reasoning else "") or None,
            enable_auto_tools=True,
            tool_strict_level=self._tool_strict_level,
            tokenizer=self._tokenizer,
        )


def _tool_choice(start: worker_pb2.StartCall) -> str | dict[str, Any] | None:
    """OpenAI's `tool_choice`; None without tools."""
    modes = call_pb2.ToolChoice
    match start.tool_choice.mode:
        case modes.MODE_NONE:
            return "none" if start.tools else None
        case modes.MODE_REQUIRED:
            return "required"
        case modes.MODE_NAMED:
            return {"type": "function", "function": {"name": start.tool_choice.name}}
        case _:
            return "auto" if start.tools else None


def _request(start: worker_pb2.StartCall, choice: str | dict[str, Any] | None) -> ChatCompletionRequest:
    """The chat request as far as parsers look at it. Raises Failure."""
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": ""}], "stream": True}
    if choice is not None:
        fields |= {
            "tools": [_tool(tool, i) for i, tool in enumerate(start.tools)] or None,
            "tool_choice": choice,
            "parallel_tool_calls": start.parallel_tool_calls,
        }
    try:
        request = ChatCompletionRequest.model_validate(fields)
    except (VLLMClientError, ValueError) as error:
        raise Failure(Reason.INVALID_ARGUMENT, str(error), "tools") from error
    request.structured_outputs = constraint(start.constraint)
    return request


def _tool(tool: call_pb2.Tool, index: int) -> dict[str, Any]:
    try:
        parameters: Any = json.loads(tool.parameters_json or '{"type": "object", "properties": {}}')
    except ValueError as error:
        raise Failure(Reason.INVALID_ARGUMENT, f"not JSON: {error}", f"tools[{index}].parameters") from error
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}
