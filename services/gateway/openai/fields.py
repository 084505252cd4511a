"""What chats and completions have in common: token choice, constraints, streaming; and how refusals read.

Models are filled straight from bytes, strictly (a number in quotes is no number), unknown fields are ignored. A value
that is not taken raises Failure(INVALID_ARGUMENT) that names the field as the caller wrote it.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from legato.v1 import call_pb2
from services.common.errors import Failure, Reason
from services.gateway.openai.peers import AgentHints, AgenticContext, Body, Identifying, Priority
from services.gateway.urgency import SERVICE_TIERS, Urgency, tiered

MAX_STOPS = 32
MAX_CHOICES_OF_A_CONSTRAINT = 4096
_SHOWN_CHARACTERS = 80
_INT32 = 2**31 - 1
_UNION_ARMS = ("str", "bool")  # which pydantic puts into the path; no field has such a name
_INT64 = 2**63 - 1


M = TypeVar("M", bound=Body)


def parse(model: type[M], body: bytes) -> M:
    """The request in `body`. Raises Failure."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise failure_of(error) from None


def failure_of(error: ValidationError) -> Failure:
    """The first complaint, as one names it to a caller."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Failure(
            Reason.INVALID_ARGUMENT, f"the request body is not valid JSON: {first.get('ctx', {}).get('error')}"
        )
    field = path(first["loc"])
    shown = first["input"]
    got = "" if isinstance(shown, dict | list) or first["type"] == "missing" else f", got {_short(shown)}"
    return Failure(Reason.INVALID_ARGUMENT, f"{field or 'the request body'}: {first['msg']}{got}", field or None)


def path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    text = ""
    for part in location:
        if isinstance(part, str) and (part in _UNION_ARMS or "[" in part):
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def refuse(field: str, message: str) -> Failure:
    """A complaint about one field."""
    return Failure(Reason.INVALID_ARGUMENT, f"{field}: {message}", field)


def to_json(value: Any, field: str) -> str:
    """JSON text of a part of a request. Raises Failure for NaN and infinities, which JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise refuse(field, "numbers must be finite") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _listed(value: Any) -> Any:
    """A single string where a list may stand."""
    return [value] if isinstance(value, str) else value


Token = Annotated[int, Field(ge=0, le=_INT32)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]


class StreamOptions(Body):
    include_usage: bool | None = None


class JsonSchema(Body):
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class Generation(Identifying):
    """Fields of both kinds of request."""

    model: str = ""
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=_INT32)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    seed: int | None = Field(default=None, ge=-_INT64, le=_INT64)
    max_tokens: int | None = Field(default=None, ge=1, le=_INT32)
    min_tokens: int | None = Field(default=None, ge=0, le=_INT32)
    stop: Annotated[list[Stop] | None, BeforeValidator(_listed), Field(max_length=MAX_STOPS)] = None
    stop_token_ids: list[Token] | None = Field(default=None, max_length=1024)
    ignore_eos: bool | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=4096)
    priority: Priority | None = None
    """As vLLM has it: smaller runs first."""
    service_tier: Literal["auto", "default", "flex", "batch", "priority", "scale"] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def sampling_message(self, max_tokens: int | None, logprobs: int | None) -> call_pb2.Sampling:
        """The parameters of token choice. Raises Failure."""
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise refuse("min_tokens", f"must not exceed the output limit of {max_tokens}, got {self.min_tokens}")
        return call_pb2.Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            logit_bias=_logit_bias(self.logit_bias or {}),
        )

    def constraint(self) -> call_pb2.Constraint:
        """What the output must look like. Raises Failure when more than one thing is asked for."""
        wanted = [*self._response_format(), *self._structured_outputs(), *self._guided()]
        if len(wanted) > 1:
            fields = " and ".join(field for field, _ in wanted)
            raise refuse(wanted[1][0], f"only one constraint can hold, got {fields}")
        return wanted[0][1] if wanted else call_pb2.Constraint()

    def urgency(self) -> Urgency:
        """What the body says of how urgent it is."""
        context = (self.vllm_xargs and self.vllm_xargs.agentic_context) or AgenticContext()
        hints = (self.nvext and self.nvext.agent_hints) or AgentHints()
        return Urgency(
            SERVICE_TIERS[self.service_tier or "auto"],
            _first(
                _lower_first(self.priority),
                tiered(hints.strict_priority, hints.priority),
                _lower_first(context.priority),
            ),
            context.deadline_seconds or 0.0,
            context.expected_output_length or hints.osl or 0,
        )

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def _response_format(self) -> list[tuple[str, call_pb2.Constraint]]:
        match self.response_format:
            case ResponseFormat(type="json_object"):
                return [("response_format", call_pb2.Constraint(json_object=True))]
            case ResponseFormat(type="json_schema", json_schema=JsonSchema(schema_=schema)) if schema is not None:
                text = to_json(schema, "response_format.json_schema.schema")
                return [("response_format", call_pb2.Constraint(json_schema=text))]
            case ResponseFormat(type="json_schema"):
                raise refuse("response_format.json_schema.schema", "Field required")
            case _:
                return []

    def _structured_outputs(self) -> list[tuple[str, call_pb2.Constraint]]:
        asked = self.structured_outputs
        if asked is None:
            return []
        found = _constraints("structured_outputs.", asked.json_, asked.regex, asked.choice, asked.grammar)
        if asked.json_object:
            found.append(("structured_outputs.json_object", call_pb2.Constraint(json_object=True)))
        return found

    def _guided(self) -> list[tuple[str, call_pb2.Constraint]]:
        return _constraints("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)


def _lower_first(priority: int | None) -> int | None:
    return None if priority is None else -priority


def _first(*priorities: int | None) -> int | None:
    """What is said first."""
    return next((priority for priority in priorities if priority is not None), None)


def _constraints(
    prefix: str,
    schema: Mapping[str, Any] | str | None,
    regex: str | None,
    choices: list[str] | None,
    grammar: str | None,
) -> list[tuple[str, call_pb2.Constraint]]:
    found: list[tuple[str, call_pb2.Constraint]] = []
    if schema is not None:
        text = schema if isinstance(schema, str) else to_json(schema, f"{prefix}json")
        found.append((f"{prefix}json", call_pb2.Constraint(json_schema=text)))
    if regex is not None:
        found.append((f"{prefix}regex", call_pb2.Constraint(regex=regex)))
    if choices is not None:
        if not 1 <= len(choices) <= MAX_CHOICES_OF_A_CONSTRAINT:
            raise refuse(f"{prefix}choice", f"must hold 1 to {MAX_CHOICES_OF_A_CONSTRAINT} strings")
        found.append((f"{prefix}choice", call_pb2.Constraint(choice=call_pb2.ChoiceList(choices=choices))))
    if grammar is not None:
        found.append((f"{prefix}grammar", call_pb2.Constraint(grammar=grammar)))
    return found


def _logit_bias(bias: Mapping[str, float]) -> dict[int, float]:
    """By token id. Raises Failure."""
    result: dict[int, float] = {}
    for token, value in bias.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise refuse("logit_bias", f"keys must be token ids, got {_short(token)}")
        result[int(token)] = value
    return result
