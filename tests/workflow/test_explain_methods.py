"""Explain and ReadLog over real gRPC, on a log that others write."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import rpc, state
from services.common.call_log import STREAM
from services.common.config import StateSection
from services.common.errors import Reason
from services.common.server import grpc_server
from services.common.state import Store
from services.workflow.board import Board
from services.workflow.recent import Recent
from services.workflow.servicer import WorkflowServicer
from services.workflow.translation import event_of
from tests.workflow.log_entries import began, ended, life, over, write

SECONDS = 10.0
START = 1_700_000_000.0


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with state.connect(StateSection(), "explain-test") as connected:
        yield connected


@asynccontextmanager
async def serving(
    store: Store, *told: workflow_pb2.LogEntry, whole_after: float = 0.0, position: str = ""
) -> AsyncGenerator[workflow_pb2_grpc.WorkflowServiceStub]:
    """`told`: what it was told of."""
    recent = Recent()
    for entry in told:
        event = event_of(entry)
        assert event is not None
        recent.add(event, entry, None)

    servicer = WorkflowServicer(Board(time.time), recent, store, asyncio.Event(), lambda: position)
    servicer.whole_after = whole_after

    def add(server: grpc.aio.Server) -> tuple[str]:
        workflow_pb2_grpc.add_WorkflowServiceServicer_to_server(servicer, server)
        return (workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,)

    async with (
        grpc_server(add, host="127.0.0.1", port=0, drain_seconds=0) as server,
        rpc.channel(server.address) as channel,
        asyncio.timeout(SECONDS),
    ):
        yield workflow_pb2_grpc.WorkflowServiceStub(channel)


async def explained(stub: workflow_pb2_grpc.WorkflowServiceStub, program_id: str) -> workflow_pb2.ExplainResponse:
    return await stub.Explain(workflow_pb2.ExplainRequest(program_id=program_id))


async def test_a_program_is_explained_as_the_log_tells_it(store: Store) -> None:
    told = life("p", 2, START)
    told[1].ended.timings.queue_seconds = 1.5
    told[1].ended.usage.reasoning_tokens = 7
    told[1].ended.worker_id = "w"
    told[1].ended.tools.append("grep")
    told[1].ended.cache.cause = "evicted"
    tool = workflow_pb2.ToolRan(program_id="p", tool="grep", seconds=4.0, call_id="c0", agent="coder", failed=True)
    told.insert(2, workflow_pb2.LogEntry(at=START + 10.0, tool=tool))
    async with serving(store, *told) as stub:
        response = await explained(stub, "p")
    first, second = response.calls
    assert (response.started, response.ended, response.workflow) == (START, START + 50.0, "review")
    assert (first.identity, first.seconds, first.reason) == (told[0].began.identity, 5.0, told[1].ended.reason)
    assert (first.usage, first.timings, first.cache) == (
        *(told[1].ended.usage, told[1].ended.timings, told[1].ended.cache),
    )
    assert (first.worker_id, list(first.tools)) == ("w", ["grep"])
    assert (second.began, list(second.parents), second.gap_seconds) == (25.0, ["c0"], 20.0)
    assert [call.critical for call in response.calls] == [True, True]
    [ran] = response.tools
    assert (ran.tool, ran.began, ran.seconds, ran.failed, ran.call_id, ran.agent) == (
        *("grep", 6.0, 4.0, True, "c0", "coder"),
    )


async def test_a_call_that_runs_has_neither_usage_nor_timings(store: Store) -> None:
    async with serving(store, began("p", 0, START)) as stub:
        [call] = (await explained(stub, "p")).calls
    assert [call.HasField("usage"), call.HasField("timings")] == [False, False]


async def test_a_program_that_is_forgotten_is_looked_for_in_the_log(store: Store) -> None:
    await write(store, life("p", 3, START))
    async with serving(store) as stub:
        assert len((await explained(stub, "p")).calls) == 3


async def test_a_program_that_began_before_the_service_is_completed_from_the_log(store: Store) -> None:
    whole = life("p", 3, START)
    await write(store, whole)
    async with serving(store, *whole[4:], whole_after=START + 30.0) as stub:
        assert len((await explained(stub, "p")).calls) == 3


async def test_what_is_in_the_log_and_not_learned_yet_is_explained_too(store: Store) -> None:
    whole = life("p", 3, START)
    await write(store, whole[:4])
    position = (await store.status(STREAM, "")).newest
    await write(store, whole[4:])
    async with serving(store, *whole[:4], position=position) as stub:
        response = await explained(stub, "p")
    assert (len(response.calls), response.ended > 0) == (3, True)


async def test_what_the_log_keeps_no_more_is_told_from_memory(store: Store) -> None:
    whole = life("p", 3, START)
    await write(store, whole[4:])
    async with serving(store, *whole, whole_after=START) as stub:
        assert len((await explained(stub, "p")).calls) == 3


async def test_a_program_that_nobody_knows_is_not_found(store: Store) -> None:
    await write(store, [over("p", START)])
    async with serving(store) as stub:
        for program_id, reason in (("p", Reason.PROGRAM_NOT_FOUND), ("", Reason.INVALID_ARGUMENT)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await explained(stub, program_id)
            assert rpc.failure_from(caught.value).reason is reason


async def test_the_log_is_read_from_the_beginning_and_then_followed(store: Store) -> None:
    await write(store, [*life("p", 1, START), *life("q", 1, START)])
    async with serving(store) as stub:
        responses = [response async for response in stub.ReadLog(workflow_pb2.ReadLogRequest(program_id="q"))]
        assert [entry for response in responses for entry in response.entries] == life("q", 1, START)
        following = aiter(stub.ReadLog(workflow_pb2.ReadLogRequest(program_id="q", follow=True)))
        assert len((await anext(following)).entries) == 3
        await write(store, [ended("p", 0, START), began("q", 1, START)])
        assert list((await anext(following)).entries) == [began("q", 1, START)]
