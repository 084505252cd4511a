"""Calls that one worker prefills and another decodes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from legato.v1 import call_pb2, kv_pb2, scheduler_pb2, worker_pb2
from tests.gateway.conftest import Make, World
from tests.gateway.fakes import FakeScheduler, Words, counting, ending, serving, text_output
from tests.gateway.test_life import CHAT, TEN, chat, read_until, text_of

PREFILL = kv_pb2.KVPlan(
    handle=kv_pb2.KVHandle(namespace_id="n", tip=7, num_blocks=3), lease=kv_pb2.KVLease(lease_id="l"), hand_off=True
)
DECODE = kv_pb2.KVPlan(arriving=True)
STATEFUL: list[dict[str, Any]] = [
    {"seed": 7},
    {"guided_regex": ".*"},
    {"stop": ["x"]},
    {"frequency_penalty": 0.5},
    {"min_tokens": 3},
    {"tools": [{"type": "function", "function": {"name": "search"}}]},
]


@pytest.fixture
async def pair(make_world: Make) -> AsyncIterator[World]:
    """Two workers that count to ten; the next call is to be prefilled on the first and decoded on the second."""
    async with make_world(num_workers=2) as world:
        for worker in world.workers:
            worker.script = counting(10)
        world.scheduler.plans.extend([PREFILL, DECODE])
        yield world


async def handed_off(world: World, **fields: Any) -> "asyncio.Task[tuple[int, Any, Any]]":
    """A call that waits between its two workers, as long as the scheduler is `holding`."""
    world.workers[0].stop_after = 1
    asking = asyncio.create_task(world.post(CHAT, chat(**fields)))
    await world.scheduler.wait_for("first_token")
    world.scheduler.holding = True
    world.workers[0].resume.set()
    await world.scheduler.wait_for("hand_off")
    return asking


async def test_the_first_token_comes_from_the_prefill_and_the_others_from_the_decode(pair: World) -> None:
    prefiller, decoder = pair.workers
    prefiller.stop_after = 1  # what the prefill gave is read before the call is handed over
    async with pair.http.post(CHAT, json=chat(stream=True)) as response:
        text = await read_until(response, " 0")
        prefiller.resume.set()
        text += await text_of(response)
    assert text == TEN
    [first], [second] = prefiller.starts, decoder.starts
    assert (first.kv, second.kv) == (PREFILL, DECODE)
    assert (first.num_resumed_tokens, second.num_resumed_tokens) == (0, 1)
    assert list(second.prompt_token_ids) == [*first.prompt_token_ids, 100]
    assert second.num_resumed_chars == 2
    [handed] = pair.scheduler.said("hand_off")
    assert (handed.attempt, handed.generated_tokens) == (1, 1)
    [finish] = await pair.scheduler.wait_for("finish")
    assert finish.attempt == 2
    assert [event.WhichOneof("event") for event in pair.scheduler.events] == [
        *("hello", "submit", "first_token", "hand_off", "first_token", "finish")
    ]


async def test_the_account_is_that_of_one_call(pair: World) -> None:
    def decode(start: worker_pb2.StartCall) -> Words:
        outputs = counting(10)(start)
        outputs[-1].finish.usage.cached_tokens += 1000  # it got from the prefill what it did not compute
        return outputs

    pair.workers[1].script = decode
    _, answer, _ = await pair.post(CHAT, chat())
    assert answer["choices"][0]["message"]["content"] == TEN
    num_prompt = len(pair.workers[0].starts[0].prompt_token_ids)
    usage, timings = answer["usage"], answer["timings"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (num_prompt, 10)
    assert usage["prompt_tokens_details"]["cached_tokens"] == min(num_prompt, 32)
    # Each worker says 0.25 s of queue, 0.5 of prefill, 1 of decode; the second's prefill lies behind the first token.
    assert (timings["prefill_seconds"], timings["decode_seconds"], timings["restarts"]) == (0.5, 2.5, 0)
    assert 0.5 <= timings["queue_seconds"] < 10


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fields", STATEFUL)
async def test_a_call_that_cannot_go_on_is_generated_whole(pair: World, fields: dict[str, Any], streamed: bool) -> None:
    async with pair.http.post(CHAT, json=chat(stream=streamed, **fields)) as response:
        text = (await text_of(response)) if streamed else (await response.json())["choices"][0]["message"]["content"]
    assert text == TEN
    [handed] = pair.scheduler.said("hand_off")
    assert handed.generated_tokens == 0
    [start] = pair.workers[1].starts
    assert (start.num_resumed_tokens, start.num_resumed_chars) == (0, 0)
    assert start.prompt_token_ids == pair.workers[0].starts[0].prompt_token_ids
    [finish] = await pair.scheduler.wait_for("finish")
    assert finish.timings.prefill_seconds == 1.0
    assert finish.usage.completion_tokens == 10


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fields", [{}, {"guided_regex": ".*"}])
@pytest.mark.parametrize(("reason", "limit"), [(call_pb2.FINISH_REASON_STOP, 9), (call_pb2.FINISH_REASON_LENGTH, 1)])
async def test_a_call_that_ends_with_its_first_token_is_over(
    pair: World, fields: dict[str, Any], streamed: bool, reason: "call_pb2.FinishReason.ValueType", limit: int
) -> None:
    pair.workers[0].script = lambda start: [text_output(0, "yes", finish=ending(start, 1, reason))]
    async with pair.http.post(CHAT, json=chat(stream=streamed, max_tokens=limit, **fields)) as response:
        text = (await text_of(response)) if streamed else (await response.json())["choices"][0]["message"]["content"]
    assert text == "yes"
    [finish] = await pair.scheduler.wait_for("finish")
    assert (finish.reason, finish.attempt, finish.usage.completion_tokens) == (reason, 1, 1)
    assert pair.scheduler.said("hand_off") == []
    assert pair.workers[1].starts == []


async def test_a_client_that_goes_away_in_between_ends_the_call(pair: World) -> None:
    asking = await handed_off(pair, stream=True)
    asking.cancel()
    [finish] = await pair.scheduler.wait_for("finish")
    assert (finish.reason, finish.attempt) == (call_pb2.FINISH_REASON_ABORT, 1)
    assert finish.usage.completion_tokens == 1
    assert pair.workers[1].starts == []


async def test_a_refusal_in_between_is_an_error(pair: World) -> None:
    asking = await handed_off(pair)
    [handed] = pair.scheduler.said("hand_off")
    refusal = scheduler_pb2.Rejection(
        program_id=handed.program_id, call_id=handed.call_id, reason="NO_WORKER", message="all are gone"
    )
    pair.scheduler.say(scheduler_pb2.SchedulerEvent(rejection=refusal))
    status, answer, _ = await asking
    assert (status, answer["error"]["code"]) == (503, "no_worker")


async def test_a_decode_that_is_lost_goes_on_elsewhere_with_every_token(pair: World) -> None:
    prefiller, decoder = pair.workers
    decoder.stop_after = 3
    async with pair.http.post(CHAT, json=chat(stream=True)) as response:
        text = await read_until(response, " 3")
        await decoder.die()
        text += await text_of(response)
    assert text == TEN
    assert prefiller.starts[-1].num_resumed_tokens == 4
    assert not prefiller.starts[-1].kv.hand_off
    [lose] = pair.scheduler.said("lose")
    assert (lose.attempt, lose.generated_tokens) == (2, 4)
    [finish] = await pair.scheduler.wait_for("finish")
    assert (finish.timings.restarts, finish.usage.completion_tokens) == (1, 10)


@pytest.mark.parametrize("num_tokens", [0, 1])
@pytest.mark.parametrize("fields", [{}, {"seed": 7}])
async def test_a_prefill_that_is_lost_is_a_lost_attempt(pair: World, num_tokens: int, fields: dict[str, Any]) -> None:
    prefiller, decoder = pair.workers
    prefiller.stop_after = num_tokens
    asking = asyncio.create_task(pair.post(CHAT, chat(**fields)))
    await prefiller.wait_for(lambda worker: len(worker.starts) == 1)
    if num_tokens:
        await pair.scheduler.wait_for("first_token")
    await prefiller.die()
    _, answer, _ = await asking
    assert (answer["choices"][0]["message"]["content"], answer["timings"]["restarts"]) == (TEN, 1)
    resumed = 0 if fields else num_tokens
    assert decoder.starts[0].num_resumed_tokens == resumed
    [lose] = pair.scheduler.said("lose")
    assert lose.generated_tokens == resumed
    assert pair.scheduler.said("hand_off") == []


async def test_a_placement_that_is_said_again_in_between_is_old_news(pair: World) -> None:
    asking = await handed_off(pair)
    [handed] = pair.scheduler.said("hand_off")
    prefiller, decoder = pair.workers
    key = {"program_id": handed.program_id, "call_id": handed.call_id}
    for attempt, worker in ((1, prefiller), (2, decoder), (2, decoder)):
        placement = scheduler_pb2.Placement(**key, attempt=attempt, worker_address=worker.address)
        pair.scheduler.say(scheduler_pb2.SchedulerEvent(placement=placement))
    _, answer, _ = await asking
    assert answer["choices"][0]["message"]["content"] == TEN
    assert (len(prefiller.starts), len(decoder.starts)) == (1, 1)
    assert answer["timings"]["restarts"] == 0


async def test_a_placement_from_before_the_hand_off_was_heard_is_followed(pair: World) -> None:
    """The scheduler sees the prefill worker die as the call leaves it."""
    asking = await handed_off(pair)
    [handed] = pair.scheduler.said("hand_off")
    placement = scheduler_pb2.Placement(
        program_id=handed.program_id, call_id=handed.call_id, attempt=2, worker_address=pair.workers[1].address
    )
    await pair.workers[0].die()
    pair.scheduler.say(scheduler_pb2.SchedulerEvent(placement=placement))
    _, answer, _ = await asking
    assert (answer["choices"][0]["message"]["content"], answer["timings"]["restarts"]) == (TEN, 0)


async def test_a_call_in_between_is_announced_to_the_next_leader_as_new(pair: World) -> None:
    asking = await handed_off(pair)
    pair.scheduler.leads = False
    successor = FakeScheduler()
    successor.workers = pair.workers[1:]
    async with serving(successor, pair.registry, "scheduler-2"):
        pair.scheduler.hang_up()
        _, answer, _ = await asking
    assert answer["choices"][0]["message"]["content"] == TEN
    [before], [again] = pair.scheduler.said("submit"), successor.said("submit")
    assert again == before
    assert pair.workers[1].starts[0].num_resumed_tokens == 1


async def test_a_prefill_is_announced_to_the_next_leader_where_it_runs(pair: World) -> None:
    pair.workers[0].stop_after = 1
    asking = asyncio.create_task(pair.post(CHAT, chat()))
    await pair.scheduler.wait_for("first_token")
    pair.scheduler.hang_up()
    _, again = await pair.scheduler.wait_for("submit", 2)
    assert (again.attempt, again.worker_id) == (1, "worker-0")
    pair.workers[0].resume.set()
    _, answer, _ = await asking
    assert answer["choices"][0]["message"]["content"] == TEN
    assert len(pair.workers[1].starts) == 1


@pytest.mark.parametrize("fields", [{}, {"seed": 7}])
async def test_without_a_scheduler_the_prefill_worker_decodes_too(pair: World, fields: dict[str, Any]) -> None:
    prefiller, decoder = pair.workers
    prefiller.stop_after = 1
    asking = asyncio.create_task(pair.post(CHAT, chat(**fields)))
    await pair.scheduler.wait_for("first_token")
    pair.scheduler.leads = False
    pair.scheduler.hang_up()
    async with asyncio.timeout(10):
        status = 200
        while status == 200:
            async with pair.http.get("/readyz") as response:
                status = response.status
    prefiller.stop_after = None
    prefiller.resume.set()
    _, answer, _ = await asking
    assert (answer["choices"][0]["message"]["content"], answer["timings"]["restarts"]) == (TEN, 0)
    assert decoder.starts == []
    assert [start.kv.hand_off for start in prefiller.starts] == [True, False]
    assert prefiller.starts[1].kv.handle == PREFILL.handle


async def test_what_has_to_be_repeated_is_not_handed_over_on_the_way(pair: World) -> None:
    first, second = pair.workers
    pair.scheduler.plans.rotate(1)
    first.stop_after = 2
    async with pair.http.post(CHAT, json=chat(stream=True, guided_regex=".*")) as response:
        text = await read_until(response, " 1")
        await first.die()
        text += await text_of(response)
    assert text == TEN
    [start] = second.starts
    assert (start.num_resumed_tokens, start.kv.hand_off, start.kv.handle) == (2, False, PREFILL.handle)
