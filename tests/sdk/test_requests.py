"""What the caller says is what the gateway is asked."""

import json
from typing import Any, Literal

import pytest

import legato
from legato.v1 import call_pb2
from tests.sdk.fake_gateway import FakeGateway

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}}


async def test_every_option_reaches_the_gateway(client: legato.Client, gateway: FakeGateway) -> None:
    search = legato.Tool("search", "Searches.", {"type": "object"}, strict=True)
    async with client.program("p") as program:
        await program.agent("coder").chat(
            "hi", model="tiny", step="draft", priority=-5, chat_template_kwargs={"thinking": False},
            temperature=0.5, top_p=0.25, top_k=3, min_p=0.125, presence_penalty=1, frequency_penalty=-1,
            repetition_penalty=1.5, seed=-1, max_tokens=64, min_tokens=2, stop="END", stop_token_ids=[1, 2],
            ignore_eos=True, logprobs=0, logit_bias={5: -100}, tools=[search], tool_choice=search,
            parallel_tool_calls=False, response_schema=SCHEMA,
        )  # fmt: skip
    [request] = gateway.calls
    identity = request.identity
    assert (identity.program_id, identity.tenant, identity.agent, identity.step) == ("p", "acme", "coder", "draft")
    assert identity.call_id
    assert (request.model, request.priority) == ("tiny", -5)
    assert json.loads(request.chat_template_kwargs_json) == {"thinking": False}
    assert request.sampling == call_pb2.Sampling(
        temperature=0.5, top_p=0.25, top_k=3, min_p=0.125, presence_penalty=1, frequency_penalty=-1,
        repetition_penalty=1.5, seed=-1, max_tokens=64, min_tokens=2, stop=["END"], stop_token_ids=[1, 2],
        ignore_eos=True, logprobs=0, logit_bias={5: -100},
    )  # fmt: skip
    assert request.sampling.HasField("logprobs")
    tool = call_pb2.Tool(name="search", description="Searches.", parameters_json='{"type": "object"}', strict=True)
    assert list(request.tools) == [tool]
    assert (request.tool_choice.mode, request.tool_choice.name) == (call_pb2.ToolChoice.MODE_NAMED, "search")
    assert request.HasField("parallel_tool_calls")
    assert not request.parallel_tool_calls
    assert json.loads(request.constraint.json_schema) == SCHEMA


def test_every_field_of_sampling_is_an_option() -> None:
    assert set(call_pb2.Sampling.DESCRIPTOR.fields_by_name) <= set(legato.CallOptions.__annotations__)


async def test_what_is_left_out_stays_unset(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        await program.agent("coder").chat("hi")
    [request] = gateway.calls
    assert request.sampling == call_pb2.Sampling()
    assert not request.HasField("constraint")
    assert not request.HasField("tool_choice")
    assert not request.HasField("parallel_tool_calls")


@pytest.mark.parametrize(
    ("options", "constraint"),
    [
        ({"response_json": True}, call_pb2.Constraint(json_object=True)),
        ({"response_regex": "a+"}, call_pb2.Constraint(regex="a+")),
        ({"response_grammar": "root ::= x"}, call_pb2.Constraint(grammar="root ::= x")),
        ({"response_choices": ["a", "b"]}, call_pb2.Constraint(choice=call_pb2.ChoiceList(choices=["a", "b"]))),
    ],
)
async def test_other_constraints_reach_the_gateway(
    client: legato.Client, gateway: FakeGateway, options: legato.CallOptions, constraint: call_pb2.Constraint
) -> None:
    async with client.program() as program:
        await program.agent("coder").chat("hi", **options)
    assert gateway.calls[0].constraint == constraint


async def test_an_agent_has_defaults_that_a_call_overrides(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        agent = program.agent("coder", system="Be brief.", model="tiny", temperature=0, seed=1)
        await agent.chat("hi", seed=2)
    [request] = gateway.calls
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
    ]
    assert (request.model, request.sampling.temperature, request.sampling.seed) == ("tiny", 0, 2)


async def test_messages_are_values_or_mappings(client: legato.Client, gateway: FakeGateway) -> None:
    call = legato.ToolCall("t0", "search", '{"q": 1}')
    as_mapping = {"id": "t0", "type": "function", "function": {"name": "search", "arguments": '{"q": 1}'}}
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    values = [
        legato.system("s"),
        legato.user("hi"),
        legato.assistant("", tool_calls=[call]),
        legato.tool_result(call, "r"),
    ]
    mappings: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [as_mapping]},
        {"role": "tool", "tool_call_id": "t0", "name": "search", "content": "r"},
    ]
    async with client.program() as program:
        await program.agent("coder").chat(values)
        await program.agent("coder").chat(mappings)
    first, second = gateway.calls
    assert list(first.messages) == list(second.messages)


async def test_a_programs_urgency_goes_with_each_of_its_calls(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program(service_class="batch", deadline_seconds=60) as program:
        await program.agent("coder").chat("hi", expected_output_tokens=300)
        await program.agent("judge", service_class="interactive").chat("hi")
        await program.agent("judge", service_class="interactive").chat("hi", service_class="default")
    async with client.program() as program:
        await program.agent("coder").chat("hi")
    classes = [request.service_class for request in gateway.calls]
    default = call_pb2.SERVICE_CLASS_DEFAULT
    assert classes == [call_pb2.SERVICE_CLASS_BATCH, call_pb2.SERVICE_CLASS_INTERACTIVE, default, default]
    deadlines = [request.program_deadline_seconds for request in gateway.calls]
    assert 60 >= deadlines[0] > deadlines[1] > deadlines[2] > 30
    assert deadlines[3] == 0
    assert [request.expected_output_tokens for request in gateway.calls] == [300, 0, 0, 0]


async def test_a_deadline_that_has_passed_is_still_said(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program(deadline_seconds=1e-9) as program:
        await program.agent("coder").chat("hi")
    assert 0 < gateway.calls[0].program_deadline_seconds < 1


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"deadline_seconds": 0}, "deadline_seconds", "31536000"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds", "31536000"),
        ({"service_class": "urgent"}, "service_class", "interactive, default, batch"),
    ],
)
def test_an_urgency_that_does_not_exist_is_refused(client: legato.Client, options: Any, field: str, says: str) -> None:
    with pytest.raises(legato.InvalidRequest, match=says) as refused:
        client.program(**options)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("messages", "options", "field"),
    [
        ("hi", {"max_tokens": -1}, "max_tokens"),
        ("hi", {"temperature": "hot"}, "temperature"),
        ("hi", {"priority": 2**40}, "priority"),
        ("hi", {"service_class": "urgent"}, "service_class"),
        ("hi", {"expected_output_tokens": -1}, "expected_output_tokens"),
        ("hi", {"stop_token_ids": [-1]}, "stop_token_ids"),
        ("hi", {"tool_choice": "perhaps"}, "tool_choice"),
        ("hi", {"response_json": True, "response_regex": "a"}, "response_regex"),
        ("hi", {"response_schema": {"x": object()}}, "response_schema"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages[0].content[0]"),
        ([{"role": "user", "content": 5}], {}, "messages[0].content"),
        ([{"role": 5}], {}, "messages[0].role"),
        ([{"role": "assistant", "tool_calls": [{"id": "x"}]}], {}, "messages[0].tool_calls[0]"),
        (["hi"], {}, "messages[0]"),
    ],
)
async def test_what_cannot_be_sent_is_refused_with_its_field(
    client: legato.Client, gateway: FakeGateway, messages: Any, options: Any, field: str
) -> None:
    async with client.program() as program:
        with pytest.raises(legato.InvalidRequest) as caught:
            await program.agent("coder").chat(messages, **options)
    assert caught.value.field == field
    assert not gateway.calls


async def test_a_misspelt_option_is_a_type_error(client: legato.Client) -> None:
    misspelt: Any = {"max_token": 5}
    with pytest.raises(TypeError, match="max_token"):
        client.program().agent("coder", **misspelt)
    with pytest.raises(TypeError, match="max_token"):
        client.program().agent("coder").stream("hi", **misspelt)


def test_a_tool_is_described_by_its_function() -> None:
    def search(query: str, limit: int = 5, kind: Literal["web", "code"] = "web", tags: list[str] | None = None) -> str:
        """Search for
        a query.

        Not for the model.
        """
        return query * limit + kind + str(tags)

    tool = legato.Tool.of(search)
    assert (tool.name, tool.description) == ("search", "Search for a query.")
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer", "default": 5},
            "kind": {"enum": ["web", "code"], "default": "web"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


def test_a_parameter_that_json_cannot_say_is_refused() -> None:
    def weigh(thing: complex) -> None:
        del thing

    with pytest.raises(TypeError, match="parameter thing of weigh"):
        legato.Tool.of(weigh)


@pytest.mark.parametrize("arguments", ["[1]", "{oops", '"text"'])
def test_arguments_that_are_no_object_are_a_value_error(arguments: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        legato.ToolCall("t0", "search", arguments).parsed()
