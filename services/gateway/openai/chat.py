"""POST /v1/chat/completions: the request."""

import json
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from legato.v1 import call_pb2
from services.gateway.openai.fields import Body, Generation, parse, refuse, to_json
from services.gateway.request import Chat, Request

MAX_TOP_LOGPROBS = 20
_NAME = Field(min_length=1, max_length=128)


def _text(content: Any) -> Any:
    """Content as one string; its parts, where there are some, on lines of their own as vLLM puts them."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for index, part in enumerate(cast("list[Any]", content)):
        match part:
            case {"type": "text" | "input_text" | "output_text", "text": str(text)} | str(text):
                texts.append(text)
            case {"type": str(kind)} if kind != "text":
                message = "part {index} is of type '{kind}'; only text is served here"
                raise PydanticCustomError("part", message, {"index": index, "kind": kind[:50]})
            case _:
                raise PydanticCustomError("part", "part {index} is no part of text", {"index": index})
    return "\n".join(texts)


class CalledFunction(Body):
    name: str = _NAME
    arguments: str = "{}"


class MessageToolCall(Body):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """Templates write arguments as JSON, so they want them parsed; what is no JSON stays as it is."""
        try:
            arguments: object = json.loads(self.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = self.function.arguments
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text)] = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def for_template(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": self.role, "content": self.content or ""}
        if self.name:
            message["name"] = self.name
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if reasoning := self.reasoning_content or self.reasoning:
            message["reasoning_content"] = reasoning
        return message


class Function(Body):
    name: str = _NAME
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function

    def message(self, index: int) -> call_pb2.Tool:
        function = self.function
        parameters = function.parameters
        text = "" if parameters is None else to_json(parameters, f"tools[{index}].function.parameters")
        return call_pb2.Tool(
            name=function.name,
            description=function.description or "",
            parameters_json=text,
            strict=bool(function.strict),
        )


class NamedFunction(Body):
    name: str = _NAME


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


def _choice(value: Any) -> Any:
    """`tool_choice` as one shape, so that a wrong one is complained about once."""
    if isinstance(value, str) and value not in ("none", "auto", "required"):
        raise PydanticCustomError("tool_choice", "must be 'none', 'auto', 'required' or a named function")
    return {"type": "function", "function": {"name": value}, "mode": value} if isinstance(value, str) else value


class ToolChoice(NamedTool):
    mode: str = "named"


_MODES = {
    "none": call_pb2.ToolChoice.MODE_NONE,
    "auto": call_pb2.ToolChoice.MODE_AUTO,
    "required": call_pb2.ToolChoice.MODE_REQUIRED,
}


class ChatRequest(Generation):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Tool] | None = None
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(_choice)] = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def request(self, default_max_tokens: int) -> Request:
        """The request in no dialect. Raises Failure."""
        if self.top_logprobs is not None and not self.logprobs:
            raise refuse("top_logprobs", "needs logprobs to be true")
        max_tokens = self.max_completion_tokens or self.max_tokens or default_max_tokens or None
        return Request(
            model=self.model,
            source=Chat(
                messages=[message.for_template() for message in self.messages],
                tools=[tool.model_dump(exclude_none=True) for tool in self.tools or ()],
                variables=self.chat_template_kwargs or {},
            ),
            sampling=self.sampling_message(max_tokens, (self.top_logprobs or 0) if self.logprobs else None),
            constraint=self.constraint(),
            tools=[tool.message(index) for index, tool in enumerate(self.tools or ())],
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            parse_reasoning=True,
            urgency=self.urgency(),
            incremental=bool(self.stream),
            choices=self.n or 1,
        )

    def _tool_choice(self) -> call_pb2.ToolChoice:
        names = {tool.function.name for tool in self.tools or ()}
        if self.tool_choice is None:
            return call_pb2.ToolChoice()
        if mode := _MODES.get(self.tool_choice.mode):
            if mode == call_pb2.ToolChoice.MODE_REQUIRED and not names:
                raise refuse("tool_choice", "'required' needs tools")
            return call_pb2.ToolChoice(mode=mode)
        name = self.tool_choice.function.name
        if name not in names:
            raise refuse("tool_choice", f"there is no tool named {name!r}")
        return call_pb2.ToolChoice(mode=call_pb2.ToolChoice.MODE_NAMED, name=name)


def parse_chat(body: bytes, default_max_tokens: int) -> tuple[ChatRequest, Request]:
    """What was asked, and the same in no dialect. Raises Failure."""
    asked = parse(ChatRequest, body)
    return asked, asked.request(default_max_tokens)
