"""A prompt's contents as hashes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.content import contents_of, of_length, output_hash
from services.gateway.openai.chat import parse_chat
from services.gateway.request import Chat

KEY = b"k"


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(name: str, arguments: object) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def hashes(*messages: dict[str, Any], key: bytes = KEY, **chat: Any) -> list[int]:
    return list(contents_of(Chat(messages, **chat), 100, key).hashes)


def test_content_is_the_same_in_every_role() -> None:
    assert len(set(hashes(said("assistant", "the plan"), said("user", "the plan"), said("tool", "the plan")))) == 1
    assert len(set(hashes(said("user", "the plan"), said("user", "a plan")))) == 2


def test_neither_reasoning_nor_white_space_around_counts() -> None:
    first, second = hashes(said("assistant", "so", reasoning_content="because"), said("assistant", " so\n"))
    assert first == second


def test_nobody_without_the_key_can_tell() -> None:
    assert hashes(said("user", "x")) != hashes(said("user", "x"), key=b"another")


def test_tools_come_first_and_their_order_counts() -> None:
    one, two = {"function": {"name": "a"}}, {"function": {"name": "b"}}
    contents = contents_of(Chat([said("system", "s"), said("user", "u")], tools=[one, two]), 100, KEY)
    assert contents.roles == "tsu"
    assert contents.hashes[0] != hashes(said("user", "u"), tools=[two, one])[0]
    assert contents.hashes[0] == hashes(said("user", "u"), tools=[{"function": {"name": "a"}}, two])[0]


def test_each_role_has_its_letter() -> None:
    roles = ("system", "developer", "user", "assistant", "tool")
    assert contents_of(Chat([said(role, "x") for role in roles]), 100, KEY).roles == "ssuao"


def test_text_and_token_ids_are_one_message() -> None:
    assert contents_of("hello", 3, KEY).roles == contents_of([1, 2, 3], 3, KEY).roles == "u"
    assert list(contents_of("hello", 3, KEY).hashes) == hashes(said("user", "hello"))
    assert contents_of([1, 2, 3], 3, KEY) != contents_of([1, 2, 4], 3, KEY)


def test_parts_are_kept_apart() -> None:
    assert hashes(said("assistant", "ab", tool_calls=[called("c", {})])) != hashes(
        said("assistant", "a", tool_calls=[called("bc", {})])
    )
    assert output_hash("a", [], KEY) != output_hash("", [("a", "{}")], KEY)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    text=st.text(max_size=40),
    calls=st.lists(
        st.tuples(st.sampled_from(["add", "read"]), JSON.map(json.dumps) | st.text(max_size=10)), max_size=3
    ),
)
def test_an_output_is_found_again_as_a_message(text: str, calls: list[tuple[str, str]]) -> None:
    tool_calls = [{"id": "c", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    body = json.dumps({"messages": [said("user", "go"), said("assistant", text, tool_calls=tool_calls or None)]})
    if any(0xD800 <= ord(letter) < 0xE000 for letter in body):
        return
    _, request = parse_chat(body.encode(), 0)
    assert contents_of(request.source, 100, KEY).hashes[1] == output_hash(text, calls, KEY)


def test_arguments_written_otherwise_are_the_same() -> None:
    assert output_hash("", [("f", '{"a":1,  "b": 2}')], KEY) == output_hash("", [("f", '{"b":2,"a":1}')], KEY)
    assert output_hash("", [("f", "")], KEY) == output_hash("", [("f", "{}")], KEY)


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=20), tokens=st.integers(1, 100_000))
def test_the_tokens_of_the_messages_are_those_of_the_prompt(sizes: list[int], tokens: int) -> None:
    source = Chat([said("user", "x" * size) for size in sizes])
    contents = contents_of(source, tokens, KEY)
    assert sum(contents.tokens) == tokens
    assert sum(of_length(contents_of(source, 0, KEY), tokens).tokens) == tokens
    even = [(size + 16) * tokens / sum(each + 16 for each in sizes) for size in sizes]
    assert all(abs(given - expected) <= 1 for given, expected in zip(contents.tokens, even, strict=True))


def test_no_hash_is_zero_and_no_text_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert all(hashes(said("user", ""), said("user", "\ud800"), said("assistant", "", tool_calls=[called("f", deep)])))
