"""Whose call is it."""

import pytest
from pydantic import SecretStr

from legato.v1 import call_pb2
from services.common.errors import Failure
from services.gateway.identity import cache_salt, from_headers, from_message


def test_own_headers_name_the_program() -> None:
    identity = from_headers({"x-legato-program-id": "p", "x-legato-parents": " a,b ,"}, "x-legato-tenant")
    assert (identity.program_id, identity.parents, identity.source) == ("p", ("a", "b"), "legato")
    assert identity.call_id


def test_a_call_without_a_program_is_its_own() -> None:
    first, second = from_headers({"x-legato-agent": "coder"}, ""), from_headers({}, "")
    assert first.source == second.source == "anonymous"
    assert first.program_id != second.program_id
    assert first.agent == "coder"


def test_empty_headers_count_as_absent() -> None:
    identity = from_headers({"x-legato-program-id": "", "x-legato-call-id": "", "x-legato-thread": ""}, "")
    assert identity.source == "anonymous"
    assert identity.call_id


def test_a_message_keeps_what_it_says() -> None:
    claimed = call_pb2.CallIdentity(program_id="p", call_id="c", tenant="t", thread="a/b", parents=["x"])
    assert from_message(claimed).message() == claimed


@pytest.mark.parametrize("program_id", ["a/b", "a b", "..", ".", "ü", "a?b", "a%2f", "\n", "x" * 257])
def test_program_ids_must_be_path_safe(program_id: str) -> None:
    with pytest.raises(Failure, match="program_id"):
        from_message(call_pb2.CallIdentity(program_id=program_id))


@pytest.mark.parametrize("field", ["call_id", "tenant", "agent", "thread", "step"])
@pytest.mark.parametrize("value", ["a\nb", "\x00", "x" * 257, "é" * 129])
def test_labels_must_be_printable_and_short(field: str, value: str) -> None:
    with pytest.raises(Failure, match=field):
        from_message(call_pb2.CallIdentity(**{field: value}))  # pyright: ignore[reportArgumentType] (a str field)


def test_choices_have_calls_of_their_own() -> None:
    identity = from_message(call_pb2.CallIdentity(program_id="p", call_id="c" * 256))
    names = {identity.choice(index).call_id for index in range(20)}
    assert len(names) == 20
    assert max(map(len, names)) <= 256


def test_salts_keep_tenants_apart() -> None:
    secret = SecretStr("s")
    assert cache_salt("", secret) == ""
    assert cache_salt("a", secret) == cache_salt("a", secret) != cache_salt("b", secret)
    assert cache_salt("a", SecretStr("other")) != cache_salt("a", secret)
