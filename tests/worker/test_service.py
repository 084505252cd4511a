"""The worker service over a fake engine: batches, slow readers, ends, watchers, draining."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from legato.v1 import call_pb2, kv_pb2, worker_pb2, worker_pb2_grpc
from services.common import registry, rpc
from services.common.config import ClusterSection, RegistrySection
from services.common.errors import Reason
from services.common.registry import Member, Registry
from services.common.registry.embedded import serve_embedded
from services.worker import service
from services.worker.config import Settings, WorkerSection
from services.worker.engine import EngineCall, EngineDead, Listener, Output
from services.worker.streams import OutputStream, Watcher, merge
from tests.worker.reading import SECONDS, batch, news, to_the_end

Stub = worker_pb2_grpc.WorkerServiceStub


@dataclass
class FakeEngine:
    """Generates what the test says."""

    started: asyncio.Queue[EngineCall] = field(default_factory=asyncio.Queue[EngineCall])
    aborted: asyncio.Queue[int] = field(default_factory=asyncio.Queue[int])
    prioritized: asyncio.Queue[tuple[int, int]] = field(default_factory=asyncio.Queue[tuple[int, int]])
    died: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    listener: Listener | None = None

    async def start(self, listener: Listener) -> worker_pb2.WorkerDescription:
        self.listener = listener
        return worker_pb2.WorkerDescription(model="m", engine="fake", num_blocks=10)

    async def run(self) -> None:
        await self.died.wait()
        raise EngineDead("as the test said")

    def submit(self, call: EngineCall) -> None:
        self.started.put_nowait(call)

    def abort(self, key: int) -> None:
        self.aborted.put_nowait(key)
        self.step((key, finished(call_pb2.FINISH_REASON_ABORT)))

    def prioritize(self, key: int, priority: int) -> None:
        self.prioritized.put_nowait((key, priority))

    async def close(self) -> None:
        self.closed = True

    def step(self, *outputs: tuple[int, worker_pb2.CallOutput]) -> None:
        self.there.on_outputs([Output(key, message) for key, message in outputs])

    @property
    def there(self) -> Listener:
        assert self.listener is not None
        return self.listener


def finished(reason: "call_pb2.FinishReason.ValueType") -> worker_pb2.CallOutput:
    return worker_pb2.CallOutput(finish=worker_pb2.Finish(reason=reason))


def output(offset: int, *token_ids: int, text: str = "") -> worker_pb2.CallOutput:
    return worker_pb2.CallOutput(offset=offset, token_ids=token_ids, text=text)


def start(slot: int, **fields: Any) -> worker_pb2.GenerateRequest:
    return worker_pb2.GenerateRequest(start=worker_pb2.StartCall(slot=slot, prompt_token_ids=[1, 2, 3], **fields))


@asynccontextmanager
async def worker(
    engine: FakeEngine, drain_seconds: float = 0.0, **section: Any
) -> AsyncGenerator[tuple[str, Registry]]:
    """Address of a worker over the engine, and the registry that it is in."""
    async with serve_embedded() as endpoint:
        settings = Settings(
            cluster=ClusterSection(drain_seconds=drain_seconds),
            registry=RegistrySection(endpoints=(endpoint,)),
            worker=WorkerSection(engine="simulated", **section),
        )
        async with (
            registry.connect(settings.registry, settings.cluster.name) as members,
            service.running(settings, engine) as running,
        ):
            yield running.address, members


@asynccontextmanager
async def serving(engine: FakeEngine, **section: Any) -> AsyncGenerator[tuple[Stub, Registry]]:
    """A stub of such a worker."""
    async with worker(engine, **section) as (address, members), rpc.channel(address) as channel:
        yield worker_pb2_grpc.WorkerServiceStub(channel), members


async def test_it_announces_itself_and_says_what_it_is() -> None:
    async with asyncio.timeout(SECONDS), serving(FakeEngine()) as (stub, members):
        workers: dict[str, Member] = {}
        async for workers in members.watch("worker"):
            if workers:
                break
        description = (await stub.Describe(worker_pb2.DescribeRequest())).description
        assert dict(workers[description.worker_id].metadata) == {"model": "m", "engine": "fake"}


async def test_outputs_of_a_step_arrive_as_one_batch() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        stream = stub.Generate()
        for slot in (7, 8, 9):
            await stream.write(start(slot))
        calls = [await engine.started.get() for _ in range(3)]
        engine.step(*((call.key, output(0, i)) for i, call in enumerate(calls)))
        first = await batch(stream)
        assert [(one.slot, list(one.token_ids)) for one in first.outputs] == [(7, [0]), (8, [1]), (9, [2])]
        engine.step(*((call.key, finished(call_pb2.FINISH_REASON_STOP)) for call in calls))
        await stream.done_writing()
        assert len((await batch(stream)).outputs) == 3
        assert await stream.read() is grpc.aio.EOF
        assert engine.aborted.empty()


async def test_when_the_stream_ends_its_calls_are_aborted_and_others_are_not() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        gone, stays = stub.Generate(), stub.Generate()
        await gone.write(start(1))
        lost = await engine.started.get()
        await stays.write(start(1))
        kept = await engine.started.get()
        gone.cancel()
        assert await engine.aborted.get() == lost.key
        engine.step((kept.key, output(0, 5)))
        assert (await batch(stays)).outputs[0].token_ids == [5]


async def test_a_call_can_be_aborted_by_its_slot() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        stream = stub.Generate()
        await stream.write(start(3))
        await stream.write(worker_pb2.GenerateRequest(abort=worker_pb2.AbortCall(slot=3)))
        assert (await batch(stream)).outputs[0].finish.reason == call_pb2.FINISH_REASON_ABORT


async def test_a_call_can_be_made_more_urgent_by_its_slot() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        stream = stub.Generate()
        await stream.write(start(3))
        call = await engine.started.get()
        for slot in (4, 3):
            prioritize = worker_pb2.PrioritizeCall(slot=slot, priority=-2)
            await stream.write(worker_pb2.GenerateRequest(prioritize=prioritize))
        assert await engine.prioritized.get() == (call.key, -2)
        assert engine.prioritized.empty()


async def test_a_watcher_first_hears_everything_and_then_what_changed() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        engine.there.on_cache([1, 2, 3], [], False)
        engine.there.on_cache([], [2], False)
        engine.there.on_load(worker_pb2.Load(num_running=4))
        watch = stub.Watch(worker_pb2.WatchRequest())
        first = await news(watch)
        assert first.description.model == "m"
        assert first.load.num_running == 4
        assert (first.cache.reset, sorted(first.cache.stored)) == (True, [1, 3])
        engine.there.on_cache([4], [1], False)
        second = await news(watch)
        assert (list(second.cache.stored), list(second.cache.removed), second.cache.reset) == ([4], [1], False)
        assert not second.HasField("description")


async def test_what_is_said_of_kv_reaches_the_engine_as_it_is() -> None:
    engine = FakeEngine()
    plan = kv_pb2.KVPlan(handle=kv_pb2.KVHandle(namespace_id="n", tip=7, num_blocks=3), hand_off=True)
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        stream = stub.Generate()
        await stream.write(start(1, kv=plan))
        assert (await engine.started.get()).start.kv == plan


async def test_its_role_can_change_while_calls_run() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine, role="prefill") as (stub, _):
        watch, stream = stub.Watch(worker_pb2.WatchRequest()), stub.Generate()
        first = (await news(watch)).description
        assert first.role == kv_pb2.WORKER_ROLE_PREFILL
        await stream.write(start(1))
        call = await engine.started.get()
        await stub.SetRole(worker_pb2.SetRoleRequest(role=kv_pb2.WORKER_ROLE_DECODE))
        changed = await news(watch)
        assert changed.description.role == kv_pb2.WORKER_ROLE_DECODE
        assert (changed.description.worker_id, changed.HasField("cache")) == (first.worker_id, False)
        described = (await stub.Describe(worker_pb2.DescribeRequest())).description
        assert described == changed.description
        engine.there.on_cache([1], [], False)
        assert not (await news(watch)).HasField("description")
        engine.step((call.key, finished(call_pb2.FINISH_REASON_STOP)))
        assert (await batch(stream)).outputs[0].finish.reason == call_pb2.FINISH_REASON_STOP
        assert engine.aborted.empty()


async def test_no_role_is_both_and_an_unknown_one_is_refused() -> None:
    async with asyncio.timeout(SECONDS), serving(FakeEngine(), role="prefill") as (stub, _):
        await stub.SetRole(worker_pb2.SetRoleRequest())
        unknown: Any = 99
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetRole(worker_pb2.SetRoleRequest(role=unknown))
        failure = rpc.failure_from(refused.value)
        assert (failure.reason, failure.field) == (Reason.INVALID_ARGUMENT, "role")
        description = (await stub.Describe(worker_pb2.DescribeRequest())).description
        assert description.role == kv_pb2.WORKER_ROLE_BOTH


async def test_a_call_of_an_earlier_term_is_refused_and_those_that_run_go_on() -> None:
    engine = FakeEngine()
    async with asyncio.timeout(SECONDS), serving(engine) as (stub, _):
        early, late = stub.Generate(), stub.Generate()
        await early.write(start(1, term=5))
        running = await engine.started.get()
        await late.write(start(1, term=7))
        await engine.started.get()
        await early.write(start(2, term=6, num_resumed_tokens=3))
        [refused] = (await batch(early)).outputs
        assert (refused.slot, refused.offset) == (2, 3)
        assert (refused.finish.error_reason, refused.finish.term) == ("STALE_TERM", 7)
        await early.write(start(3))  # of a term that is not known
        await engine.started.get()
        engine.step((running.key, output(0, 1)))
        assert (await batch(early)).outputs[0].slot == 1
        assert engine.started.empty()


async def test_a_watcher_of_an_earlier_term_is_told_so_at_once_and_refused_from_then_on() -> None:
    async with asyncio.timeout(SECONDS), serving(FakeEngine(), report_interval_seconds=5.0) as (stub, _):
        first, second = stub.Watch(worker_pb2.WatchRequest(term=5)), stub.Watch(worker_pb2.WatchRequest(term=5))
        await news(first)
        await news(second)
        successor = stub.Watch(worker_pb2.WatchRequest(term=7))
        await news(successor)
        for stale in (first, second, stub.Watch(worker_pb2.WatchRequest(term=6))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await news(stale)
            failure = rpc.failure_from(refused.value)
            assert (failure.reason, failure.metadata) == (Reason.STALE_TERM, {"term": "7"})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetRole(worker_pb2.SetRoleRequest(role=kv_pb2.WORKER_ROLE_DECODE, term=6))
        assert rpc.failure_from(refused.value).reason is Reason.STALE_TERM
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # and no later one would be heard of any more
            await stub.SetRole(worker_pb2.SetRoleRequest(role=kv_pb2.WORKER_ROLE_DECODE, term=2**64 - 1))
        assert rpc.failure_from(refused.value).field == "term"
        await stub.SetRole(worker_pb2.SetRoleRequest(role=kv_pb2.WORKER_ROLE_DECODE, term=7))
        assert (await news(successor)).description.role == kv_pb2.WORKER_ROLE_DECODE


async def test_a_watcher_that_has_heard_nothing_yet_hears_of_the_role_too() -> None:
    watcher = Watcher(worker_pb2.WatchResponse(description=worker_pb2.WorkerDescription(worker_id="w")))
    watcher.describe(worker_pb2.WorkerDescription(worker_id="w", role=kv_pb2.WORKER_ROLE_PREFILL))
    told = [(await watcher.take()).description.role for _ in range(2)]
    assert told == [kv_pb2.WORKER_ROLE_UNSPECIFIED, kv_pb2.WORKER_ROLE_PREFILL]


@pytest.mark.parametrize("method", ["Watch", "Generate"])
async def test_a_dead_engine_ends_the_streams_and_the_worker(method: str) -> None:
    engine = FakeEngine()

    async def live_and_die() -> None:
        async with serving(engine) as (stub, _):
            stream: Any = stub.Watch(worker_pb2.WatchRequest()) if method == "Watch" else stub.Generate()
            await stream.read() if method == "Watch" else await stream.write(start(1))
            engine.died.set()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await to_the_end(stream)
            assert rpc.failure_from(ended.value).reason is Reason.ENGINE_DEAD
            await asyncio.Event().wait()

    async with asyncio.timeout(SECONDS):
        with pytest.raises(ExceptionGroup) as raised:
            await live_and_die()
    assert raised.group_contains(EngineDead)
    assert engine.closed


async def test_a_worker_that_drains_lets_calls_finish_and_takes_no_new_ones() -> None:
    engine = FakeEngine()
    answers: list[worker_pb2.CallOutput] = []
    started = asyncio.Event()

    async def gateway(address: str) -> None:
        async with rpc.channel(address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            stream, watch = stub.Generate(), stub.Watch(worker_pb2.WatchRequest())
            await stream.write(start(1))
            call = await engine.started.get()
            started.set()
            while not (await news(watch)).load.draining:
                pass
            await stream.write(start(2))
            answers.extend((await batch(stream)).outputs)
            engine.step((call.key, finished(call_pb2.FINISH_REASON_STOP)))
            answers.extend((await batch(stream)).outputs)

    async with (
        asyncio.timeout(SECONDS),
        asyncio.TaskGroup() as tasks,
        worker(engine, drain_seconds=SECONDS) as (address, _),
    ):
        tasks.create_task(gateway(address))
        await started.wait()
    assert [one.finish.error_reason for one in answers] == ["DRAINING", ""]


async def test_while_a_reader_is_slow_outputs_of_a_call_become_one() -> None:
    stream = OutputStream()
    for i in range(100):
        stream.put(1, output(i, i, text="x"))
        stream.put(2, output(i, -i % 7))
    taken = await stream.take()
    assert taken is not None
    assert [one.slot for one in taken.outputs] == [1, 2]
    assert list(taken.outputs[0].token_ids) == list(range(100))
    assert (taken.outputs[0].offset, taken.outputs[0].text) == (0, "x" * 100)


def test_merged_tool_calls_keep_their_pieces_in_order() -> None:
    def pieces(*found: tuple[int, str, str]) -> worker_pb2.CallOutput:
        calls = [call_pb2.ToolCall(index=index, name=name, arguments=text) for index, name, text in found]
        return worker_pb2.CallOutput(tool_calls=calls)

    first = pieces((0, "a", ""), (0, "", "{"))
    merge(first, pieces((0, "", "}"), (1, "b", "")))
    merge(first, pieces((1, "", "{}")))
    assert [(piece.index, piece.name, piece.arguments) for piece in first.tool_calls] == [
        (0, "a", ""),
        (0, "", "{}"),
        (1, "b", "{}"),
    ]


Change = tuple[Sequence[int], Sequence[int], bool]
CASES: list[tuple[list[Change], list[int], list[int], bool]] = [
    ([([1], [], False), ([], [1], False)], [], [], False),
    ([([], [1], False), ([1], [], False)], [], [], False),
    ([([1], [], False), ([2], [], True)], [2], [], True),
]


@pytest.mark.parametrize(("changes", "stored", "removed", "reset"), CASES)
async def test_what_came_and_left_meanwhile_is_not_told(
    changes: list[Change], stored: list[int], removed: list[int], reset: bool
) -> None:
    watcher = Watcher(worker_pb2.WatchResponse())
    await watcher.take()
    for change in changes:
        watcher.cache(*change)
    told = (await watcher.take()).cache
    assert (list(told.stored), list(told.removed), told.reset) == (stored, removed, reset)
