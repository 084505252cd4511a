"""How urgent a call is, as its caller says it and the scheduler hears it; and when its program will be done, back."""

from typing import Any

import pytest

from legato.v1 import call_pb2, scheduler_pb2
from services.gateway import urgency
from services.gateway.urgency import BATCH, DEFAULT, INTERACTIVE, UNSAID
from tests.gateway.conftest import World

CHAT = "/v1/chat/completions"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}


async def heard(world: World, headers: dict[str, str], body: dict[str, Any]) -> scheduler_pb2.SubmitCall:
    async with world.http.post(CHAT, json=chat(**body), headers=headers) as response:
        assert response.status == 200, await response.text()
    return world.scheduler.said("submit")[-1]


def agentic(**context: Any) -> dict[str, Any]:
    return {"vllm_xargs": {"agentic_context": context, "other": 1}}


def hints(**values: Any) -> dict[str, Any]:
    return {"nvext": {"agent_hints": {"speculative_prefill": True, **values}}}


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, {}, UNSAID),
        ({"x-legato-service-class": "interactive"}, {}, INTERACTIVE),
        ({"x-legato-service-class": " Batch "}, {}, BATCH),
        ({"x-legato-service-class": "default"}, {"service_tier": "flex"}, DEFAULT),
        ({"x-smg-priority": "system"}, {}, INTERACTIVE),
        ({"x-smg-priority": "bulk"}, {"service_tier": "priority"}, BATCH),
        ({"x-legato-service-class": "interactive", "x-smg-priority": "bulk"}, {}, INTERACTIVE),
        ({"x-llm-d-inference-objective": "batch"}, {}, BATCH),
        ({"x-llm-d-inference-objective": "premium-traffic"}, {"service_tier": "flex"}, BATCH),
        ({}, {"service_tier": "auto"}, UNSAID),
        ({}, {"service_tier": "default"}, DEFAULT),
        ({}, {"service_tier": "priority"}, INTERACTIVE),
        ({}, {"service_tier": "scale"}, INTERACTIVE),
    ],
)
async def test_classes_are_understood_in_every_dialect(
    world: World, headers: dict[str, str], body: dict[str, Any], expected: Any
) -> None:
    assert (await heard(world, headers, body)).service_class == expected


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"x-legato-priority": "7"}, {"priority": 3}, 7),
        ({"x-override-priority": "-7"}, {}, -7),
        ({"x-vllm-priority": "7"}, {}, -7),
        ({"x-legato-priority": "1000", "x-vllm-priority": "7"}, {}, 1000),
        ({}, {"priority": 3, **hints(priority=9)}, -3),
        ({}, hints(priority=9), 9),
        ({}, {"priority": 0, **hints(priority=9)}, 0),
        ({"x-litellm-priority": "7", "x-vllm-priority": "3"}, {}, -3),
        ({"x-litellm-priority": "7"}, hints(priority=9), -7),
        ({"x-dynamo-request-priority": "7"}, {"priority": 3, **hints(priority=9)}, 7),
        ({"x-dynamo-request-strict-priority": "2"}, {}, 200),
        ({"x-dynamo-request-strict-priority": "2", "x-dynamo-request-priority": "-7"}, {}, 193),
        ({}, hints(strict_priority=2), 200),
        ({}, hints(strict_priority=2, priority=9), 209),
        ({}, hints(strict_priority=900, priority=9), 1000),
        ({}, hints(strict_priority=0, priority=9), 9),
        ({}, agentic(priority=5), -5),
        ({}, {**agentic(priority=5), **hints(priority=9)}, 9),
    ],
)
async def test_priorities_have_one_polarity(
    world: World, headers: dict[str, str], body: dict[str, Any], expected: int
) -> None:
    assert (await heard(world, headers, body)).priority == expected


async def test_a_deadline_is_that_of_the_program_from_now(world: World) -> None:
    assert (await heard(world, {}, {})).deadline_seconds == 0
    assert (await heard(world, {"x-legato-deadline-seconds": "90"}, agentic(deadline_seconds=5))).deadline_seconds > 80
    assert 40 < (await heard(world, {}, agentic(deadline_seconds=50))).deadline_seconds <= 50


async def test_a_deadline_comes_nearer_until_the_next_scheduler_hears_of_it(world: World) -> None:
    world.scheduler.holding = True
    async with world.http.post(
        CHAT, json=chat(stream=True), headers={"x-legato-deadline-seconds": "30", "x-legato-program-id": "p"}
    ):
        await world.scheduler.wait_for("submit")
        world.scheduler.hang_up()
        first, again = await world.scheduler.wait_for("submit", 2)
    assert 0 < again.deadline_seconds < first.deadline_seconds <= 30


async def test_an_expected_length_is_passed_on(world: World) -> None:
    assert (await heard(world, {}, {})).expected_output_tokens == 0
    assert (await heard(world, {}, hints(osl=12))).expected_output_tokens == 12
    assert (
        await heard(world, {}, {**hints(osl=12), **agentic(expected_output_length=34)})
    ).expected_output_tokens == 34
    assert (await heard(world, {"x-legato-expected-output-tokens": "56"}, hints(osl=12))).expected_output_tokens == 56


@pytest.mark.parametrize(
    ("headers", "body", "field", "says"),
    [
        ({"x-legato-service-class": "urgent"}, {}, "x-legato-service-class", "interactive, default, batch"),
        ({"x-smg-priority": "high"}, {}, "x-smg-priority", "system, interactive, default, bulk"),
        ({"x-legato-priority": "1001"}, {}, "x-legato-priority", "[-1000, 1000]"),
        ({"x-vllm-priority": "soon"}, {}, "x-vllm-priority", "[-1000, 1000]"),
        ({"x-legato-deadline-seconds": "0"}, {}, "x-legato-deadline-seconds", "(0, 31536000]"),
        ({"x-legato-deadline-seconds": "nan"}, {}, "x-legato-deadline-seconds", "(0, 31536000]"),
        ({"x-legato-deadline-seconds": "tomorrow"}, {}, "x-legato-deadline-seconds", "(0, 31536000]"),
        ({"x-legato-expected-output-tokens": "-1"}, {}, "x-legato-expected-output-tokens", "2147483647"),
        ({}, {"service_tier": "gold"}, "service_tier", "'flex'"),
        ({}, {"priority": -1001}, "priority", "-1000"),
        ({}, agentic(deadline_seconds=-1), "vllm_xargs.agentic_context.deadline_seconds", "greater than 0"),
        ({}, agentic(deadline_seconds=1e9), "vllm_xargs.agentic_context.deadline_seconds", "31536000"),
        ({}, agentic(expected_output_length=0), "vllm_xargs.agentic_context.expected_output_length", "1"),
        ({}, hints(priority="high"), "nvext.agent_hints.priority", "integer"),
        ({}, agentic(priority=1001), "vllm_xargs.agentic_context.priority", "1000"),
        ({"x-litellm-priority": "1.5"}, {}, "x-litellm-priority", "[-1000, 1000]"),
        ({"x-dynamo-request-strict-priority": "top"}, {}, "x-dynamo-request-strict-priority", "[-1000, 1000]"),
    ],
)
async def test_what_is_not_taken_is_named_with_its_limit(
    world: World, headers: dict[str, str], body: dict[str, Any], field: str, says: str
) -> None:
    async with world.http.post(CHAT, json=chat(**body), headers=headers) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, field)
    assert says in error["message"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_eta_of_the_program_is_in_the_headers(world: World, streamed: bool) -> None:
    world.scheduler.eta = call_pb2.Eta(expected_seconds=1000, low_seconds=0.0, high_seconds=2000)
    async with world.http.post(CHAT, json=chat(stream=streamed)) as response:
        await response.read()
    assert 990 < float(response.headers["x-legato-program-eta-seconds"]) < 1000
    assert float(response.headers["x-legato-program-eta-low-seconds"]) == 0
    assert 1990 < float(response.headers["x-legato-program-eta-high-seconds"]) < 2000


async def test_where_nothing_is_known_there_is_no_eta(world: World) -> None:
    _, _, headers = await world.post(CHAT, chat())
    assert not any("eta" in name.lower() for name in headers)


async def test_a_call_of_a_program_that_cannot_make_its_deadline_is_refused_with_the_reason(world: World) -> None:
    world.scheduler.rejection = scheduler_pb2.Rejection(reason="DEADLINE_UNREACHABLE", message="it ends in 80 s")
    status, answer, headers = await world.post(CHAT, chat(), x_legato_deadline_seconds="60")
    assert (status, answer["error"]["code"]) == (429, "deadline_unreachable")
    assert headers["x-legato-reason"] == "deadline_unreachable"


def test_what_is_said_first_counts() -> None:
    first = urgency.Urgency(priority=0, expected_output_tokens=3)
    other = urgency.Urgency(BATCH, 5, 60.0, 9)
    assert first.over(other) == urgency.Urgency(BATCH, 0, 60.0, 3)
