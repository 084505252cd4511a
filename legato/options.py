"""The keyword arguments of a call, and how they become a request."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from legato.errors import InvalidRequest
from legato.messages import Tool
from legato.v1 import call_pb2, gateway_pb2

ServiceClass = Literal["interactive", "default", "batch"]
"""Someone waits for each answer; someone waits for the program; nobody waits."""

SERVICE_CLASSES: dict[ServiceClass, "call_pb2.ServiceClass.ValueType"] = {
    "interactive": call_pb2.SERVICE_CLASS_INTERACTIVE,
    "default": call_pb2.SERVICE_CLASS_DEFAULT,
    "batch": call_pb2.SERVICE_CLASS_BATCH,
}


class CallOptions(TypedDict, total=False):
    """All of them optional; what is left out takes the agent's value, then the engine's default."""

    model: str
    """Served model name; not needed when the cluster serves only one."""
    step: str
    """A named place in the program ("draft", "review")."""
    priority: int
    """Higher is more urgent; 0 is normal. Range [-1000, 1000]."""
    service_class: ServiceClass
    """How urgent its program is; what its newest call says counts."""
    expected_output_tokens: int
    """How long the answer will be, if that is known; it is not cut there."""
    deadline_seconds: float
    """For the whole call, retries included; the client's otherwise. The program's own: `Client.program`."""
    chat_template_kwargs: Mapping[str, Any]
    """Extra variables of the chat template."""

    temperature: float
    """0 is greedy. Range [0, 2]."""
    top_p: float
    """Range (0, 1]."""
    top_k: int
    """0 or -1 disables it."""
    min_p: float
    """Range [0, 1]."""
    presence_penalty: float
    """Range [-2, 2]."""
    frequency_penalty: float
    """Range [-2, 2]."""
    repetition_penalty: float
    """Range (0, 2]."""
    seed: int
    """Equal seeds and prompts give equal tokens on the same engine."""
    max_tokens: int
    """Most tokens to generate, at least 1; otherwise what is left of the context."""
    min_tokens: int
    """Fewest tokens before a stop is honoured."""
    stop: str | Sequence[str]
    """Strings that end the output; they are not part of it."""
    stop_token_ids: Sequence[int]
    """Token ids that end the output."""
    ignore_eos: bool
    """Generate until max_tokens even after end-of-sequence."""
    logprobs: int
    """Log probabilities of this many alternatives per token (0: of the chosen one alone)."""
    logit_bias: Mapping[int, float]
    """Added to the logits of these token ids. Range [-100, 100]."""

    tools: Sequence[Tool]
    """What the model may call."""
    tool_choice: Literal["auto", "none", "required"] | Tool
    """Whether it may, must not or must; a tool: that one."""
    parallel_tool_calls: bool
    """May the model call several tools at once; otherwise yes."""

    response_schema: Mapping[str, Any]
    """JSON Schema that the text must match. At most one of the `response_` options."""
    response_json: bool
    """The text must be a JSON object."""
    response_regex: str
    """Regular expression that the text must match."""
    response_grammar: str
    """Context-free grammar, in EBNF, of the text."""
    response_choices: Sequence[str]
    """The text must be one of these."""


_LONGEST_DEADLINE_SECONDS = 31_536_000
_SAMPLING = call_pb2.Sampling.DESCRIPTOR.fields_by_name
_CHOICES = {
    "auto": call_pb2.ToolChoice.MODE_AUTO,
    "none": call_pb2.ToolChoice.MODE_NONE,
    "required": call_pb2.ToolChoice.MODE_REQUIRED,
}


def check_names(options: CallOptions) -> None:
    """Raise TypeError for an option that does not exist, as Python does for a misspelt keyword."""
    for name in options:
        if name not in CallOptions.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")


def check_urgency(service_class: str, deadline_seconds: float | None) -> None:
    """Raise InvalidRequest for what the cluster would not take."""
    if service_class not in SERVICE_CLASSES:
        message = f"service_class must be one of {', '.join(SERVICE_CLASSES)}, not {service_class!r}"
        raise InvalidRequest(message, field="service_class")
    if deadline_seconds is not None and not 0 < deadline_seconds <= _LONGEST_DEADLINE_SECONDS:
        message = f"deadline_seconds must be in (0, {_LONGEST_DEADLINE_SECONDS}], not {deadline_seconds}"
        raise InvalidRequest(message, field="deadline_seconds")


def request_of(
    identity: call_pb2.CallIdentity, messages: Sequence[gateway_pb2.Message], options: CallOptions, *, incremental: bool
) -> gateway_pb2.ChatRequest:
    """One call as the gateway takes it. Raises InvalidRequest, with the field, for values that cannot be sent."""
    request = gateway_pb2.ChatRequest(
        identity=identity,
        model=options.get("model", ""),
        messages=messages,
        sampling=_sampling(options),
        constraint=_constraint(options),
        tools=[_tool(tool) for tool in options.get("tools", ())],
        tool_choice=_tool_choice(options),
        parallel_tool_calls=options.get("parallel_tool_calls"),
        incremental=incremental,
    )
    _assign(request, "priority", options.get("priority", 0))
    _assign(request, "expected_output_tokens", options.get("expected_output_tokens", 0))
    if (service_class := options.get("service_class")) is not None:
        check_urgency(service_class, None)
        request.service_class = SERVICE_CLASSES[service_class]
    if "chat_template_kwargs" in options:
        request.chat_template_kwargs_json = _json(options["chat_template_kwargs"], "chat_template_kwargs")
    return request


def _sampling(options: CallOptions) -> call_pb2.Sampling:
    sampling = call_pb2.Sampling()
    for name, value in options.items():
        if name in _SAMPLING:
            _assign(sampling, name, value)
    return sampling


def _assign(message: call_pb2.Sampling | gateway_pb2.ChatRequest, name: str, value: Any) -> None:
    try:
        match name:
            case "stop" | "stop_token_ids":
                getattr(message, name).extend([value] if isinstance(value, str) else value)
            case "logit_bias":
                getattr(message, name).update(value)
            case _:
                setattr(message, name, value)
    except (TypeError, ValueError) as error:  # protobuf refuses other types and numbers beyond the field's range
        raise InvalidRequest(f"{name}: {error}", field=name) from error


def _constraint(options: CallOptions) -> call_pb2.Constraint | None:
    given = [name for name in options if name.startswith("response_")]
    if len(given) > 1:
        raise InvalidRequest(f"at most one of {', '.join(sorted(given))}", field=given[1])
    match options:
        case {"response_schema": schema}:
            return call_pb2.Constraint(json_schema=_json(schema, "response_schema"))
        case {"response_json": wanted}:
            return call_pb2.Constraint(json_object=True) if wanted else None
        case {"response_regex": regex}:
            return call_pb2.Constraint(regex=regex)
        case {"response_grammar": grammar}:
            return call_pb2.Constraint(grammar=grammar)
        case {"response_choices": choices}:
            return call_pb2.Constraint(choice=call_pb2.ChoiceList(choices=choices))
        case _:
            return None


def _tool(tool: Tool) -> call_pb2.Tool:
    schema = _json(tool.parameters, f"tools[{tool.name}].parameters")
    return call_pb2.Tool(name=tool.name, description=tool.description, parameters_json=schema, strict=tool.strict)


def _tool_choice(options: CallOptions) -> call_pb2.ToolChoice | None:
    choice = options.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, Tool):
        return call_pb2.ToolChoice(mode=call_pb2.ToolChoice.MODE_NAMED, name=choice.name)
    if choice not in _CHOICES:
        raise InvalidRequest(f"tool_choice must be one of {', '.join(_CHOICES)} or a Tool", field="tool_choice")
    return call_pb2.ToolChoice(mode=_CHOICES[choice])


def _json(value: object, field: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{field} cannot be written as JSON: {error}", field=field) from error
