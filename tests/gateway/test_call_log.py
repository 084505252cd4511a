"""What the gateway writes into the call log, and what becomes of it when the state store is away."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, scheduler_pb2, worker_pb2, workflow_pb2
from services.common import call_log, rpc, state
from services.common.config import StateSection
from services.common.errors import Failure
from services.common.state import Store
from services.gateway import log_entries
from services.gateway.call_log import FLUSH_ENTRIES, CallLog, writing
from services.gateway.calls import Calls
from services.gateway.models import Models
from services.gateway.schedule import Scheduler
from services.gateway.workers import Workers
from tests.gateway.conftest import Make, World
from tests.gateway.fakes import Words, ending, text_output
from tests.servers.redis import RedisServer, redis_server

CHAT = "/v1/chat/completions"
DROPPED = "legato_gateway_log_dropped_total"
KEPT_BYTES = 1024 * 1024 * 1024
CALL = {"x-legato-program-id": "p", "x-legato-call-id": "c"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}


def over(number: int) -> workflow_pb2.LogEntry:
    return log_entries.program_over(f"p{number}")


def numbers(entries: Sequence[workflow_pb2.LogEntry]) -> list[int]:
    return [int(entry.over.program_id[1:]) for entry in entries]


@dataclass(frozen=True)
class Written:
    """A log that nobody writes away."""

    entries: list[workflow_pb2.LogEntry]

    def put(self, entry: workflow_pb2.LogEntry) -> None:
        self.entries.append(entry)


async def all_of(store: Store) -> list[workflow_pb2.LogEntry]:
    found = await store.read(call_log.STREAM, count=100_000)
    return [entry for _, batch in found for entry in workflow_pb2.ReadLogResponse.FromString(batch).entries]


async def wait_for(store: Store, count: int) -> list[workflow_pb2.LogEntry]:
    """The log, once it has as many entries."""
    entries: list[workflow_pb2.LogEntry] = []
    after = "0"
    async with asyncio.timeout(20):
        while len(entries) < count:
            found: list[tuple[str, bytes]] = []
            with suppress(state.StoreUnavailable):
                found = await store.read(call_log.STREAM, after, wait_seconds=5.0)
            for position, batch in found:
                after = position
                entries += workflow_pb2.ReadLogResponse.FromString(batch).entries
    return entries


@asynccontextmanager
async def log_of(world: World) -> AsyncGenerator[Store]:
    async with state.connect(world.settings.state, world.settings.cluster.name) as store:
        yield store


@asynccontextmanager
async def written_to(store: Store, most_entries: int, kept_bytes: int = KEPT_BYTES) -> AsyncGenerator[CallLog]:
    async with asyncio.TaskGroup() as tasks, writing(tasks, store, most_entries, kept_bytes) as log:
        yield log


@pytest.fixture
async def store() -> AsyncGenerator[Store]:
    async with state.connect(StateSection(), "call log") as opened:
        yield opened


@pytest.fixture
def server():
    with redis_server(tcp=True, durable=True) as started:
        yield started


def section(server: RedisServer) -> StateSection:
    return StateSection(url=server.url, timeout_seconds=0.3)


async def test_a_call_is_in_the_log_from_its_beginning_to_its_end(world: World) -> None:
    world.scheduler.speeds = (0.001, 0.02)
    world.scheduler.cache = workflow_pb2.CacheNote(expected_tokens=7, cause="evicted")
    headers = {**CALL, "x-legato-agent": "coder", "x-legato-tenant": "acme", "x-legato-workflow": "review"}
    conversation = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    async with log_of(world) as store:
        await world.post(CHAT, chat(messages=conversation, max_tokens=50), **headers)
        first, second = await wait_for(store, 2)
    began, ended = first.began, second.ended
    start = world.worker.starts[0]
    assert began.identity == start.identity
    assert (began.identity.agent, began.identity.workflow, began.source) == ("coder", "review", "legato")
    assert (began.model, began.max_tokens) == ("tiny", 50)
    assert began.prompt_tokens == len(start.prompt_token_ids) == sum(began.message_tokens)
    assert (began.roles, len(began.messages)) == ("su", 2)
    assert (ended.program_id, ended.call_id, ended.worker_id) == ("p", "c", "worker-0")
    assert (ended.reason, ended.error) == (call_pb2.FINISH_REASON_STOP, "")
    cached = min(began.prompt_tokens, 32)
    assert (ended.usage.prompt_tokens, ended.usage.completion_tokens) == (began.prompt_tokens, 5)
    assert ended.engine_seconds == pytest.approx((began.prompt_tokens - cached) * 0.001 + 5 * 0.02)
    assert (ended.timings.prefill_seconds, ended.timings.decode_seconds) == (0.5, 1.0)
    assert ended.cache == world.scheduler.cache
    assert 0 < first.at <= second.at


async def test_an_output_is_found_again_as_a_message_of_the_next_prompt(world: World) -> None:
    conversation: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    async with log_of(world) as store:
        for number in range(2):
            _, answer, _ = await world.post(
                CHAT, chat(messages=conversation), **{**CALL, "x-legato-call-id": f"c{number}"}
            )
            conversation = [*conversation, answer["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        first, ended, second, _ = await wait_for(store, 4)
    assert first.began.messages[0] == second.began.messages[0]
    assert second.began.roles == "uau"
    assert second.began.messages[1] == ended.ended.output != 0


@pytest.mark.parametrize("fields", [{}, {"seed": 1}], ids=["goes on", "starts anew"])
async def test_a_call_that_lost_its_worker_is_one_call_with_the_output_that_its_client_got(
    make_world: Make, fields: dict[str, Any]
) -> None:
    async with make_world(num_workers=2) as world, log_of(world) as store:
        world.workers[0].stop_after = 2
        asking = asyncio.create_task(world.post(CHAT, chat(**fields), **CALL))
        await world.scheduler.wait_for("first_token")
        await world.workers[0].die()
        _, answer, _ = await asking
        message = answer["choices"][0]["message"]
        await world.post(CHAT, chat(messages=[{"role": "user", "content": "hello"}, message]))
        _, ended, later, _ = await wait_for(store, 4)
    assert (ended.ended.worker_id, ended.ended.timings.restarts) == ("worker-1", 1)
    assert ended.ended.output == later.began.messages[1]


async def test_the_tools_that_an_output_asks_for_are_named(world: World) -> None:
    def script(start: worker_pb2.StartCall) -> Words:
        pieces = [
            call_pb2.ToolCall(index=0, id="t0", name="search", arguments='{"q":'),
            call_pb2.ToolCall(index=0, arguments=' "a"}'),
            call_pb2.ToolCall(index=1, id="t1", name="read", arguments="{}"),
        ]
        outputs = [text_output(offset, "", tool_calls=[piece]) for offset, piece in enumerate(pieces)]
        finish = ending(start, 3, call_pb2.FINISH_REASON_TOOL_CALLS)
        return [*outputs, worker_pb2.CallOutput(offset=3, finish=finish)]

    world.worker.script = script
    async with log_of(world) as store:
        _, answer, _ = await world.post(CHAT, chat(), **CALL)
        message = answer["choices"][0]["message"]
        await world.post(CHAT, chat(messages=[{"role": "user", "content": "hello"}, message]))
        _, ended, later, _ = await wait_for(store, 4)
    assert list(ended.ended.tools) == ["search", "read"]
    assert ended.ended.output == later.began.messages[1]


async def test_each_answer_to_a_request_is_a_call_in_the_log(world: World) -> None:
    async with log_of(world) as store:
        await world.post(CHAT, chat(n=3), **CALL)
        entries = await wait_for(store, 6)
    assert {entry.began.identity.call_id for entry in entries if entry.HasField("began")} == {"c", "c.1", "c.2"}
    assert {entry.ended.call_id for entry in entries if entry.HasField("ended")} == {"c", "c.1", "c.2"}


async def test_a_call_that_is_refused_ends_with_its_reason_and_the_time_it_waited(world: World) -> None:
    world.scheduler.holding = True
    async with log_of(world) as store, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(world.post(CHAT, chat(), **CALL))
        await world.scheduler.wait_for("submit")
        rejection = scheduler_pb2.Rejection(program_id="p", call_id="c", reason="QUEUE_TIMEOUT", message="too long")
        world.scheduler.say(scheduler_pb2.SchedulerEvent(rejection=rejection))
        assert (await asking)[0] == 503
        began, ended = await wait_for(store, 2)
    assert (ended.ended.reason, ended.ended.error) == (call_pb2.FINISH_REASON_ERROR, "QUEUE_TIMEOUT")
    assert ended.ended.usage.prompt_tokens == began.began.prompt_tokens
    assert (ended.ended.worker_id, ended.ended.engine_seconds) == ("", 0.0)
    timings = ended.ended.timings
    assert 0 < timings.queue_seconds <= ended.at - began.at + 0.01
    assert (timings.prefill_seconds, timings.decode_seconds) == (0.0, 0.0)


async def test_a_call_whose_client_goes_away_ends_as_cancelled_with_what_it_had(world: World) -> None:
    world.worker.stop_after = 2
    async with log_of(world) as store:
        asking = asyncio.create_task(world.post(CHAT, chat(stream=True), **CALL))
        await world.scheduler.wait_for("first_token")
        asking.cancel()
        _, entry = await wait_for(store, 2)
    ended = entry.ended
    assert (ended.reason, ended.error) == (call_pb2.FINISH_REASON_ABORT, "CANCELLED")
    assert ended.usage.completion_tokens in (1, 2)
    assert (ended.worker_id, ended.output) == ("worker-0", 0)
    assert ended.timings.prefill_seconds + ended.timings.decode_seconds > 0


async def test_tools_and_the_end_of_a_program_are_in_the_log(world: World) -> None:
    async with log_of(world) as store, rpc.channel(world.gateway.address) as channel:
        gateway = gateway_pb2_grpc.GatewayServiceStub(channel)
        report = gateway_pb2.ReportToolSpanRequest(
            request_id="r",
            program_id="p",
            agent="coder",
            tool="grep",
            duration=Duration(nanos=250_000_000),
            call_id="c",
        )
        for _ in range(2):  # a repeat counts once
            await gateway.ReportToolSpan(report)
        await gateway.EndProgram(gateway_pb2.EndProgramRequest(program_id="p"))
        tool, ended = await wait_for(store, 2)
    assert tool.tool == workflow_pb2.ToolRan(program_id="p", agent="coder", tool="grep", seconds=0.25, call_id="c")
    assert ended.over.program_id == "p"


async def test_an_end_that_no_scheduler_hears_is_not_logged(world: World) -> None:
    """It will be told again."""
    section, written = world.settings.gateway, list[workflow_pb2.LogEntry]()
    scheduler = Scheduler("alone", grace_seconds=0.0)
    async with asyncio.TaskGroup() as tasks:
        workers = Workers(tasks, scheduler.outgrow)
        calls = Calls(section, Models(world.registry, section), scheduler, workers, Written(written))
        with pytest.raises(Failure, match="scheduler"):
            calls.end_program("p")
    scheduler.close()
    assert written == []


async def test_a_gateway_that_stops_writes_what_it_has(make_world: Make) -> None:
    async with state.connect(StateSection(), "legato") as store:
        async with make_world() as world:
            await world.post(CHAT, chat(), **CALL)
        assert [entry.WhichOneof("event") for entry in await all_of(store)] == ["began", "ended"]


async def test_calls_are_served_while_the_store_is_away_and_logged_when_it_is_back(
    make_world: Make, server: RedisServer
) -> None:
    server.kill()
    async with make_world(state=section(server)) as world, asyncio.timeout(20):
        for _ in range(3):
            assert (await world.post(CHAT, chat(), **CALL))[0] == 200
        server.start()
        async with log_of(world) as store:
            entries = await wait_for(store, 6)
    assert [entry.WhichOneof("event") for entry in entries] == ["began", "ended"] * 3


async def test_entries_are_written_in_order_many_at_once(store: Store) -> None:
    count = 3 * FLUSH_ENTRIES + 7
    async with written_to(store, count) as log:
        for number in range(count):
            log.put(over(number))
        entries = await wait_for(store, count)
    assert numbers(entries) == list(range(count))
    batches = await store.read(call_log.STREAM, count=100_000)
    assert len(batches) < count / 100
    assert max(len(batch) for _, batch in batches) <= call_log.BATCH_BYTES + 4 * FLUSH_ENTRIES  # lengths and tags


async def test_an_entry_that_is_larger_than_a_batch_is_written_alone(store: Store) -> None:
    large = workflow_pb2.LogEntry(began=workflow_pb2.CallBegan(messages=range(1, 5000)))
    async with written_to(store, 10) as log:
        for entry in (over(0), large, over(1)):
            log.put(entry)
    batches = [workflow_pb2.ReadLogResponse.FromString(batch) for _, batch in await store.read(call_log.STREAM)]
    assert [list(batch.entries) for batch in batches][1] == [large]
    assert len(batches) == 3


async def test_the_log_keeps_about_as_much_as_it_may(store: Store) -> None:
    kept_bytes = 1024 * 1024
    padding = "x" * (call_log.BATCH_BYTES // 2)
    async with written_to(store, 100_000, kept_bytes) as log:
        for number in range(1000):
            log.put(log_entries.program_over(f"{number}{padding}"))
    batches = await store.read(call_log.STREAM, count=100_000)
    assert kept_bytes / 2 < sum(len(batch) for _, batch in batches) <= 1.01 * kept_bytes
    assert (await all_of(store))[-1].over.program_id.startswith("999")


async def test_what_finds_no_room_is_the_oldest_and_put_never_waits(server: RedisServer) -> None:
    server.kill()
    async with state.connect(section(server), "test") as store, written_to(store, 100) as log:
        for number in range(250):
            log.put(over(number))
        server.start()
        assert numbers(await wait_for(store, 100))[:100] == list(range(150, 250))


@pytest.mark.parametrize("frozen", [False, True])
async def test_nothing_is_lost_while_the_store_is_away(server: RedisServer, frozen: bool) -> None:
    async with state.connect(section(server), "test") as store, written_to(store, 100_000) as log:
        for number in range(1000):
            log.put(over(number))
        await wait_for(store, 1000)
        server.freeze() if frozen else server.kill()
        with pytest.raises(state.StoreUnavailable):
            await store.get("a")
        for number in range(1000, 3000):
            log.put(over(number))
        with pytest.raises(state.StoreUnavailable):
            await store.get("a")
        server.thaw() if frozen else server.start()
        log.put(over(3000))
        entries = await wait_for(store, 3001)
        while numbers(entries)[-1] != 3000:  # what was repeated stands before it
            entries = await wait_for(store, len(entries) + 1)
    assert list(dict.fromkeys(numbers(entries))) == list(range(3001))


async def test_a_store_that_stays_away_does_not_keep_the_gateway_from_stopping(server: RedisServer) -> None:
    before = REGISTRY.get_sample_value(DROPPED) or 0.0
    async with state.connect(section(server), "test") as store:
        server.kill()
        async with asyncio.timeout(10), written_to(store, 100) as log:
            for number in range(3):
                log.put(over(number))
    assert REGISTRY.get_sample_value(DROPPED) == before + 3
