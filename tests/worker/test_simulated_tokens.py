"""What the simulated engine answers."""

import json
import re
from array import array
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure, Reason
from services.worker import tiny_model
from services.worker.simulated.instances import instance
from services.worker.simulated.patterns import Unsupported, example
from services.worker.simulated.tokens import Plan, logprobs, plan
from services.worker.simulated.vocabulary import Characters, ModelVocabulary, Vocabulary, vocabulary

CHARACTERS = Characters()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelVocabulary:
    directory: Path = tmp_path_factory.mktemp("model")
    tiny_model.make(directory)
    found = vocabulary(str(directory))
    assert isinstance(found, ModelVocabulary)
    return found


def call(**sampling: Any) -> worker_pb2.StartCall:
    return worker_pb2.StartCall(prompt_token_ids=range(5, 40), sampling=call_pb2.Sampling(**sampling))


def planned(start: worker_pb2.StartCall, words: Vocabulary = CHARACTERS, max_model_len: int = 1000) -> Plan:
    prompt = array("I", start.prompt_token_ids)[: len(start.prompt_token_ids) - start.num_resumed_tokens]
    return plan(start, prompt, words, max_model_len, mean_tokens=50.0)


def test_the_same_call_gives_the_same_output_and_another_prompt_another() -> None:
    assert planned(call()) == planned(call())
    other = call()
    other.prompt_token_ids[3] += 1
    assert planned(other).ids != planned(call()).ids


def test_a_seed_counts_unless_the_choice_is_greedy() -> None:
    assert planned(call(seed=1)).ids != planned(call(seed=2)).ids
    assert planned(call(seed=1, temperature=0)) == planned(call(seed=2, temperature=0))


@given(st.integers(0, 60))
def test_a_resumed_call_plans_what_it_had_planned(num_resumed: int) -> None:
    first = planned(call(max_tokens=60, ignore_eos=True))
    start = call(max_tokens=60, ignore_eos=True)
    start.prompt_token_ids.extend(first.ids[:num_resumed])
    start.num_resumed_tokens = num_resumed
    assert planned(start) == first


def test_output_ends_by_itself_or_at_max_tokens() -> None:
    free = planned(call(), max_model_len=100_000)
    assert (free.finish, free.ids[-1]) == (call_pb2.FINISH_REASON_STOP, CHARACTERS.end)
    cut = planned(call(max_tokens=len(free.ids) - 1))
    assert (cut.finish, cut.ids) == (call_pb2.FINISH_REASON_LENGTH, free.ids[:-1])
    forced = planned(call(max_tokens=500, ignore_eos=True))
    assert (forced.finish, len(forced.ids)) == (call_pb2.FINISH_REASON_LENGTH, 500)
    assert len(planned(call(min_tokens=300)).ids) >= 300
    assert len(planned(call(ignore_eos=True), max_model_len=50).ids) == 15


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(Failure) as caught:
        planned(call(), max_model_len=35)
    assert caught.value.reason is Reason.CONTEXT_LENGTH_EXCEEDED
    for start in (call(max_tokens=0), worker_pb2.StartCall()):
        with pytest.raises(Failure) as caught:
            planned(start)
        assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_a_stop_string_ends_the_output_and_is_not_part_of_it(model: ModelVocabulary) -> None:
    whole = planned(call(max_tokens=80, ignore_eos=True), model)
    text = "".join(whole.pieces)
    stop = text[100:107]
    cut = planned(call(max_tokens=80, ignore_eos=True, stop=["\0", stop]), model)
    assert "".join(cut.pieces) == text[: text.index(stop)]
    assert (cut.finish, cut.stop) == (call_pb2.FINISH_REASON_STOP, stop)
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert stop in "".join(whole.pieces[: len(cut.ids)])
    assert stop not in "".join(whole.pieces[: len(cut.ids) - 1])


def test_a_stop_before_min_tokens_is_not_honoured() -> None:
    whole = planned(call(max_tokens=80, ignore_eos=True))
    text = "".join(whole.pieces)
    cut = planned(call(max_tokens=80, ignore_eos=True, stop=[text[3]], min_tokens=10))
    assert len(cut.ids) >= 10
    assert "".join(cut.pieces) == text[: text.index(text[3], 9)]


def test_a_stop_token_ends_the_output_without_its_text() -> None:
    whole = planned(call(max_tokens=80, ignore_eos=True))
    cut = planned(call(max_tokens=80, ignore_eos=True, stop_token_ids=[whole.ids[20]]))
    end = whole.ids.index(whole.ids[20])
    assert cut.ids == whole.ids[: end + 1]
    assert "".join(cut.pieces) == "".join(whole.pieces[:end])
    assert cut.finish == call_pb2.FINISH_REASON_STOP


def test_words_read_again_give_the_same_tokens(model: ModelVocabulary) -> None:
    output = planned(call(max_tokens=200, ignore_eos=True), model)
    ids, pieces = model.encode("".join(output.pieces))
    assert ids == output.ids
    assert pieces == output.pieces
    assert planned(call(), model).ids[-1] == model.end


def test_no_piece_holds_half_a_character(model: ModelVocabulary) -> None:
    text = '{"name": "größe 😀 漢字"}'
    ids, pieces = model.encode(text)
    assert "".join(pieces) == text
    assert len(ids) == len(pieces)
    start = call(max_tokens=9)
    start.constraint.choice.choices.append("漢字漢字漢字漢字")
    assert "漢字漢字".startswith("".join(planned(start, model).pieces))


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    {"type": "object", "required": ["a", "b"], "properties": {"a": {"enum": [3, 4]}, "b": {"const": None}}},
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "minItems": 3, "items": {"const": 1}},
    {"anyOf": [{"type": "string", "minLength": 20000}, {"type": "integer", "minimum": 7, "multipleOf": 5}]},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]}, {"type": "null"}]},
    {"type": ["null", "string"]},
    {"type": "string", "minLength": 40, "maxLength": 41},
    {"type": "string", "maxLength": 1},
    {"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"},
    {"type": "integer", "exclusiveMaximum": -3},
    {"type": "number", "minimum": 0.25, "maximum": 0.5},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "array"}}, "required": ["b"]}]},
    {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    },
    {"properties": {"steps": {"items": {"type": "string"}, "minItems": 1}}, "required": ["steps"]},
    {},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=[str(index) for index in range(len(SCHEMAS))])
def test_a_schema_gets_a_valid_instance(schema: dict[str, Any]) -> None:
    start = call()
    start.constraint.json_schema = json.dumps(schema)
    output = planned(start)
    value = json.loads("".join(output.pieces))
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
    assert output.finish == call_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "3",
        "false",
        '{"type": "text"}',
        '{"type": 3}',
        '{"$ref": "#/$defs/gone"}',
        '{"$ref": "https://example.org/a"}',
        '{"$ref": "#"}',
        '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
        '{"type": "integer", "minimum": 5, "maximum": 4}',
        '{"enum": []}',
        '{"type": "array", "items": [3], "minItems": 1}',
        '{"properties": 7, "required": ["a"]}',
        '{"type": "string", "pattern": "("}',
        '{"type": "string", "pattern": "a{9}", "maxLength": 3}',
    ],
)
def test_a_schema_without_an_instance_is_refused(schema: str) -> None:
    with pytest.raises(Unsupported):
        instance(schema, ["a"])


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{3}-\d{4}",
        r"(yes|no)!?",
        r"[^a-z]+",
        r"[^\w\s]x",
        r"(a)(b)\1\2",
        r".{2,5}\.",
        r"(?:[A-F0-9]{2}:){5}[A-F0-9]{2}",
        r"[\u4e00-\u9fff]+",
        r"^start.*end$",
        r"\S\D\W",
        "",
    ],
)
def test_a_regular_expression_gets_a_match(pattern: str) -> None:
    assert re.fullmatch(pattern, example(pattern))


@pytest.mark.parametrize("pattern", ["(", r"(?=b)a", "a{99999}", r"a\bb", r"(?!a)."])
def test_a_regular_expression_beyond_the_generator_is_refused(pattern: str) -> None:
    start = call()
    start.constraint.regex = pattern
    with pytest.raises(Failure) as caught:
        planned(start)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_other_constraints_are_met_or_refused() -> None:
    start = call()
    start.constraint.json_object = True
    assert isinstance(json.loads("".join(planned(start).pieces)), dict)
    start.constraint.choice.choices.extend(["left", "right"])
    assert "".join(planned(start).pieces) in ("left", "right")
    start.constraint.grammar = "root ::= 'a'"
    with pytest.raises(Failure) as caught:
        planned(start)
    assert caught.value.field == "constraint.grammar"


def tool_call(mode: "call_pb2.ToolChoice.Mode.ValueType", name: str = "") -> worker_pb2.StartCall:
    start = call()
    start.tool_choice.CopyFrom(call_pb2.ToolChoice(mode=mode, name=name))
    start.tools.add(name="search", parameters_json=json.dumps(SCHEMAS[0]))
    start.tools.add(name="stop")
    return start


@pytest.mark.parametrize("mode", [call_pb2.ToolChoice.MODE_REQUIRED, call_pb2.ToolChoice.MODE_NAMED])
def test_a_required_tool_is_called_with_valid_arguments(
    mode: "call_pb2.ToolChoice.Mode.ValueType", model: ModelVocabulary
) -> None:
    start = tool_call(mode, "search")
    del start.tools[1]
    output = planned(start, model)
    assert output.tool is not None
    assert output.tool.name == "search"
    assert output.tool.id
    jsonschema.validate(json.loads("".join(output.pieces)), SCHEMAS[0])
    assert output.finish == call_pb2.FINISH_REASON_TOOL_CALLS


def test_tools_are_not_called_unasked_nor_when_missing() -> None:
    assert planned(tool_call(call_pb2.ToolChoice.MODE_AUTO)).tool is None
    with pytest.raises(Failure):
        planned(tool_call(call_pb2.ToolChoice.MODE_NAMED, "gone"))


def test_logprobs_are_plausible_and_always_the_same(model: ModelVocabulary) -> None:
    output = planned(call(max_tokens=9), model)
    rows = logprobs(output, 2, 6, 3, model)
    assert rows == logprobs(output, 2, 6, 3, model)
    assert [row.token_id for row in rows] == output.ids[2:6]
    for row in rows:
        assert row.top[0].token_id == row.token_id
        values = [top.logprob for top in row.top]
        assert len(values) == 3
        assert 0 > values[0] > values[1] > values[2]
    assert not logprobs(output, 0, 1, 0, model)[0].top
