"""Whose call is it."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from legato.v1 import call_pb2
from services.common.errors import Failure
from services.gateway.identity import cache_salt, from_headers, from_message
from tests.gateway.asking import CHAT, asked, chat
from tests.gateway.conftest import World


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
    claimed = call_pb2.CallIdentity(
        program_id="p", call_id="c", tenant="t", thread="a/b", parents=["x"], workflow="review"
    )
    assert from_message(claimed).message() == claimed


@pytest.mark.parametrize("program_id", ["a/b", "a b", "..", ".", "ü", "a?b", "a%2f", "\n", "x" * 257])
def test_program_ids_must_be_path_safe(program_id: str) -> None:
    with pytest.raises(Failure, match="program_id"):
        from_message(call_pb2.CallIdentity(program_id=program_id))


@pytest.mark.parametrize("field", ["call_id", "tenant", "agent", "thread", "step", "workflow"])
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


def agentic(**context: Any) -> dict[str, Any]:
    return {"vllm_xargs": {"agentic_context": context}}


DIALECTS: list[tuple[str, dict[str, str], dict[str, Any], dict[str, str]]] = [
    ("legato", {"x-legato-program-id": "P", "x-legato-workflow": "w"}, {}, {"workflow": "w"}),
    ("agentic-context", {}, agentic(program_id="P", agent_role="coder", step_id=3), {"agent": "coder", "step": "3"}),
    ("agentic-context", {}, agentic(program_id="c", root_program_id="P"), {"thread": "c"}),
    ("agentic-context", {}, agentic(program_id="c", parent_program_id="P"), {"thread": "c"}),
    ("agentic-context", {}, agentic(task_id="P", session_id="s"), {"thread": "s"}),
    ("agentic-context", {}, agentic(session_id="P", agent_id="a"), {"thread": "a"}),
    ("dynamo", {"X-Dynamo-Session-ID": "P"}, {}, {}),
    ("dynamo", {"x-dynamo-session-id": "s", "x-dynamo-parent-session-id": "P"}, {}, {"thread": "s"}),
    ("dynamo", {"x-dynamo-trajectory-id": "s", "x-dynamo-parent-trajectory-id": "P"}, {}, {"thread": "s"}),
    ("dynamo", {}, {"nvext": {"session_control": {"session_id": "P"}}}, {}),
    ("claude-code", {"x-claude-code-session-id": "P"}, {}, {}),
    ("claude-code", {"x-claude-code-session-id": "P", "x-claude-code-agent-id": "a"}, {}, {"thread": "a"}),
    ("claude-code", {}, {"metadata": {"user_id": "user_1_account__session_P"}}, {}),
    ("claude-code", {}, {"metadata": {"user_id": json.dumps({"session_id": "P"})}}, {}),
    ("codex", {"session-id": "P", "thread-id": "t"}, {}, {"thread": "t"}),
    ("codex", {"session_id": "P"}, {}, {}),
    ("codex", {"session-id": "P", "thread-id": "P"}, {}, {}),
    (
        "codex",
        {"thread-id": "t", "x-codex-parent-thread-id": "P", "x-openai-subagent": "r"},
        {},
        {"thread": "t", "agent": "r"},
    ),
    ("opencode", {"x-opencode-session": "P"}, {}, {}),
    ("opencode", {"x-session-id": "s", "x-parent-session-id": "P"}, {}, {"thread": "s"}),
    ("opencode", {"x-session-affinity": "s", "x-parent-session-id": "P"}, {}, {"thread": "s"}),
    ("litellm", {"x-litellm-trace-id": "P", "x-litellm-session-id": "s"}, {}, {}),
    ("litellm", {"x-litellm-session-id": "P", "x-litellm-agent-id": "a"}, {}, {"agent": "a"}),
    ("session-header", {"x-session-id": "P"}, {}, {}),
    ("session-header", {"x-session-affinity": "P"}, {}, {}),
    ("session-header", {"x-llm-d-session-id": "P"}, {}, {}),
    ("session-header", {"X-Acme-Session-Id": "P"}, {}, {}),
    ("program-field", {}, {"program_id": "P", "docker_ids": ["d"]}, {}),
    ("session-field", {}, {"litellm_session_id": "P", "session_id": "s"}, {}),
    ("session-field", {}, {"metadata": {"session_id": "P"}}, {}),
    ("session-field", {}, {"session_id": "P"}, {}),
    ("session-field", {}, {"session_params": {"session_id": "P"}}, {}),
    ("session-field", {}, {"session_params": {"id": "P", "rid": None}}, {}),
    ("prompt-cache-key", {}, {"prompt_cache_key": "P"}, {}),
    ("conversation", {}, {"conversation": "P"}, {}),
    ("conversation", {}, {"conversation": {"id": "P"}}, {}),
    ("baggage", {"baggage": "a=b,gen_ai.conversation.id=P;x=1,session.id=s"}, {}, {}),
    ("baggage", {"baggage": "session.id=%50"}, {}, {}),
    ("baggage", {"baggage": "session.id=s, legato.program_id=P"}, {}, {}),
]


@pytest.mark.parametrize(("source", "headers", "body", "labels"), DIALECTS)
async def test_every_dialect_names_its_program(
    world: World, source: str, headers: dict[str, str], body: dict[str, Any], labels: dict[str, str]
) -> None:
    told, identity, by = await asked(world, headers, chat(**body))
    assert (told, by) == ("P", source)
    expected = {"agent": "", "thread": "", "step": "", **labels}
    assert {name: getattr(identity, name) for name in expected} == expected


async def test_the_first_dialect_in_order_counts(world: World) -> None:
    spoken: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        ("legato", {"x-legato-program-id": "own"}, {}),
        ("agentic-context", {}, agentic(program_id="agentic")),
        ("dynamo", {"x-dynamo-session-id": "dynamo"}, {}),
        ("claude-code", {"x-claude-code-session-id": "claude"}, {}),
        ("codex", {"session-id": "codex"}, {}),
        ("opencode", {"x-opencode-session": "opencode"}, {}),
        ("litellm", {"x-litellm-session-id": "litellm"}, {}),
        ("session-header", {"x-session-id": "header"}, {}),
        ("program-field", {}, {"program_id": "field"}),
        ("session-field", {}, {"session_id": "session"}),
        ("prompt-cache-key", {}, {"prompt_cache_key": "cache"}),
        ("conversation", {}, {"conversation": "conversation"}),
        ("baggage", {"baggage": "session.id=baggage"}, {}),
    ]
    while spoken:
        headers = {name: value for _, said, _ in spoken for name, value in said.items()}
        body = {name: value for _, _, said in spoken for name, value in said.items()}
        _, _, by = await asked(world, headers, chat(**body))
        assert by == spoken.pop(0)[0]


async def test_the_path_names_the_program_for_all_of_the_api(world: World) -> None:
    told, _, by = await asked(world, root="/p/run-7")
    assert (told, by) == ("run-7", "path")
    told, _, by = await asked(world, {"x-legato-program-id": "own"}, root="/p/run-7")
    assert (told, by) == ("own", "legato")
    status, _, headers = await world.post("/p/run-7/v1/completions", {"model": "tiny", "prompt": "hello"})
    assert (status, headers["x-legato-program-id"]) == (200, "run-7")
    for path in ("/p/run-7/v1/models", "/p/run-7/v1/models/tiny"):
        async with world.http.get(path) as response:
            assert response.status == 200
    status, answer, _ = await world.post("/p/a%2Fb/v1/chat/completions", chat())
    assert (status, answer["error"]["param"]) == (400, "program_id")


async def test_sessions_in_a_named_program_are_its_threads(world: World) -> None:
    told, identity, by = await asked(world, {"x-session-id": "s"}, chat(**agentic(program_id="a")), root="/p/run-7")
    assert (told, identity.thread, by) == ("run-7", "a", "path")
    own = {"x-legato-program-id": "p", "x-legato-thread": "t", "x-session-id": "s"}
    told, identity, _ = await asked(world, own)
    assert (told, identity.thread) == ("p", "t")


async def test_sub_agents_of_sub_agents_belong_to_the_root(world: World) -> None:
    def session(name: str, parent: str) -> dict[str, str]:
        return {"x-dynamo-session-id": name, "x-dynamo-parent-session-id": parent}

    await asked(world, {"x-dynamo-session-id": "root"})
    await asked(world, session("child", "root"))
    told, identity, _ = await asked(world, session("grandchild", "child"))
    assert (told, identity.thread) == ("root", "grandchild")
    told, identity, _ = await asked(world, {"x-dynamo-session-id": "child"})
    assert (told, identity.thread) == ("root", "child")


async def test_the_final_call_of_a_session_ends_its_program(world: World) -> None:
    final = {"x-dynamo-session-final": "true"}
    await asked(world, {"x-dynamo-session-id": "child", "x-dynamo-parent-session-id": "root", **final})
    await asked(world, {"x-dynamo-session-id": "root", **final})
    ends = await world.scheduler.wait_for("end_program")
    assert [end.program_id for end in ends] == ["root"]
    kinds = [event.WhichOneof("event") for event in world.scheduler.events]
    assert kinds.index("end_program") > len(kinds) - 1 - kinds[::-1].index("finish")


async def test_a_request_goes_on_from_a_response(world: World) -> None:
    async with world.http.post(CHAT, json=chat(), headers={"x-session-id": "s"}) as response:
        answer = await response.json()
    told, _, by = await asked(world, body=chat("go on", previous_response_id=answer["id"]))
    assert (told, by) == ("s", "previous-response")
    _, _, by = await asked(world, body=chat("go on", previous_response_id="never-heard-of"))
    assert by == "anonymous"
    told, _, by = await asked(world, {"x-legato-tenant": "t"}, chat("go on", previous_response_id=answer["id"]))
    assert by == "anonymous"


@pytest.mark.parametrize("session", ["a/b c", "ü", "..", "x" * 5000, "s\u2028"])
async def test_ids_of_others_that_cannot_be_used_are_hashed(world: World, session: str) -> None:
    told, _, by = await asked(world, body=chat(session_id=session))
    again, _, _ = await asked(world, body=chat(session_id=session))
    other, _, _ = await asked(world, body=chat(session_id=session + "x"))
    assert told == again != other
    assert by == "session-field"


async def test_labels_of_others_that_cannot_be_used_are_hashed(world: World) -> None:
    _, identity, _ = await asked(world, body=chat(**agentic(program_id="p", agent_role="x" * 999, step_id="a\nb")))
    assert len(identity.agent) == len(identity.step) == 16


async def test_tenants_that_choose_the_same_session_are_kept_apart(world: World) -> None:
    ids = {(await asked(world, {"x-session-id": "s", "x-legato-tenant": tenant}))[0] for tenant in ("", "a", "b")}
    assert len(ids) == 3
    assert all(program_id.startswith("s") for program_id in ids)


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": ["x"], "conversation": [], "session_params": "x", "session_id": {}, "program_id": True},
        {
            "metadata": {"user_id": "{broken", "session_id": None},
            "prompt_cache_key": 1.5,
            "nvext": {"session_control": 1},
        },
        {"metadata": {"user_id": "{" * 3000}, "previous_response_id": ["x"], **agentic(program_id={}, task_id=[1])},
    ],
)
async def test_no_shape_of_a_foreign_field_is_refused(world: World, body: dict[str, Any]) -> None:
    assert (await asked(world, {"baggage": ",=;,%%%=", "x-session-id": ""}, chat(**body)))[2] == "anonymous"


async def test_a_refused_request_is_told_its_program_too(world: World) -> None:
    for name in ("x_legato_program_id", "x_session_id"):
        status, _, headers = await world.post(CHAT, chat(temperature=9), **{name: "p"})
        assert (status, headers["x-legato-program-id"]) == (400, "p")


async def test_whoever_asks_for_a_salt_a_worker_or_a_transfer_is_not_heard(world: World) -> None:
    plain = {"x-legato-program-id": "p", "x-legato-call-id": "c1", "x-legato-tenant": "t"}
    await asked(world, plain)
    pinned = {
        "X-data-parallel-rank": "3",
        "x-override-routed-dp-rank": "3",
        "x-override-rid": "r",
        "X-SMG-Target-Worker": "worker-9",
        "X-SMG-Routing-Key": "k",
        "target-pod": "pod-9",
        "routing-strategy": "random",
        "external-filter": "x=y",
        "x-session-token": "worker-9",
        "X-Request-Id": "r",
    }
    wanted = {
        "cache_salt": "mine",
        "extra_key": "mine",
        "nvext": {"cache_salt": "mine", "backend_instance_id": 9, "worker_id": 9},
        "vllm_xargs": {"cache_salt": "mine", "kv_transfer_params": {"do_remote_decode": True}},
        "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "x"},
        "data_parallel_rank": 3,
        "routed_dp_rank": 3,
        "bootstrap_host": "x",
        "request_id": "r",
        "rid": "r",
    }
    await asked(world, {**plain, **pinned}, chat(**wanted))
    first, second = world.worker.starts
    assert first.cache_salt == cache_salt("t", SecretStr(""))
    for start in (first, second):
        start.slot, start.traceparent = 0, ""
    assert first == second
    one, two = world.scheduler.said("submit")
    assert one == two
