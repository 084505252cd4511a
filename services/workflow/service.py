"""The workflow service: reads the call log, learns from it, and foretells.

There is no leader: each instance reads the whole log for itself and knows what every other one knows, so any of them
may be asked, and when one dies the others are warm. One that starts goes on from the newest snapshot; until it has
caught up with the log it is not listed in the registry, and nothing that it foresees on the way is sent but what is in
force at the end. Nobody ever waits for a workflow service: without one, what it would say is not known.
"""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import registry, state
from services.common.registry import Member, Registry
from services.common.server import grpc_server
from services.common.state import Store, StoreUnavailable
from services.workflow import metrics, snapshot
from services.workflow.board import Board
from services.workflow.config import Settings
from services.workflow.core import Core
from services.workflow.learner import AT_ONCE, Learner
from services.workflow.log import Batch, LogReader
from services.workflow.recent import Recent
from services.workflow.servicer import WorkflowServicer
from services.workflow.snapshot import Snapshot

_log = logging.getLogger(__name__)

_SERVICE = workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name
_STREAMS_END_SECONDS = 1.0
"""How long streams that were told to end may take."""
_RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    """A workflow service that serves, or is about to."""

    workflow_id: str
    address: str
    caught_up: asyncio.Event
    """Set once it knows the whole log."""


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Running]:
    """Run until left. Does not wait until it has caught up."""
    section, cluster = settings.workflow, settings.cluster
    board, recent, caught_up = Board(time.time), Recent(), asyncio.Event()
    learner = Learner(Core, board, recent, time.time)
    async with contextlib.AsyncExitStack() as stack:
        members = await stack.enter_async_context(registry.connect(settings.registry, cluster.name))
        store = await stack.enter_async_context(state.connect(settings.state, cluster.name))
        servicer = WorkflowServicer(board, recent, store, caught_up, lambda: learner.position)

        def add(server: grpc.aio.Server) -> tuple[str]:
            workflow_pb2_grpc.add_WorkflowServiceServicer_to_server(servicer, server)
            return (_SERVICE,)

        server = await stack.enter_async_context(
            grpc_server(add, host=cluster.host, port=section.port, drain_seconds=_STREAMS_END_SECONDS)
        )
        stack.callback(board.end)
        stack.push_async_callback(_leave, learner, store, caught_up)
        workflow_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        member = Member("workflow", workflow_id, server.address, {})
        # A store inside the process is lost with it: snapshots against a sudden end would be work for nothing.
        snapshot_seconds = section.snapshot_seconds if settings.state.url else math.inf
        learning = _learn(learner, servicer, store, snapshot_seconds, caught_up)
        for work in (learning, _announce(members, member, caught_up)):
            stack.callback(tasks.create_task(work).cancel)
        yield Running(workflow_id, server.address, caught_up)


async def _leave(learner: Learner, store: Store, caught_up: asyncio.Event) -> None:
    """What was learned last is the next life's too, unless that would learn some of it twice."""
    if caught_up.is_set() and learner.whole:
        await snapshot.write(snapshot.take(learner), store)


async def _announce(members: Registry, member: Member, caught_up: asyncio.Event) -> None:
    """Be listed once there is something to say, until cancelled."""
    await caught_up.wait()
    async with members.announce(member):
        metrics.CAUGHT_UP.set(1)
        try:
            await asyncio.Event().wait()
        finally:
            metrics.CAUGHT_UP.set(0)


async def _learn(
    learner: Learner, servicer: WorkflowServicer, store: Store, snapshot_seconds: float, caught_up: asyncio.Event
) -> None:
    """Learn from the log until cancelled, and write snapshots behind."""
    await _restore(learner, store)
    servicer.whole_after = time.time() if learner.position else 0.0
    reader = LogReader(store, after=learner.position)
    now, began = asyncio.get_running_loop().time, time.monotonic()
    async with asyncio.TaskGroup() as tasks, aclosing(reader.batches()) as batches:
        saving, save_at = tasks.create_task(asyncio.sleep(0)), now() + snapshot_seconds
        live = False
        async for batch in batches:
            await _take(learner, batch, live)
            live = batch.caught_up
            if batch.caught_up:
                learner.advance(time.time())
                if not caught_up.is_set():
                    caught_up.set()
                    _log.info("caught up with the call log in %.2f s", time.monotonic() - began)
            if now() >= save_at and saving.done():
                save_at = now() + snapshot_seconds
                saving = tasks.create_task(_save(snapshot.take(learner), store, reader), name="save what was learned")


async def _restore(learner: Learner, store: Store) -> None:
    """The newest snapshot, as soon as the store answers."""
    while True:
        try:
            await snapshot.restore(learner, store)
        except StoreUnavailable as failure:
            _log.warning("nothing is learned: %s", failure)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _take(learner: Learner, batch: Batch, live: bool) -> None:
    """Learn from a batch, a little at a time. `live`: when it was written, the reader waited for it."""
    learner.at(batch.position)
    for start in range(0, len(batch.entries), AT_ONCE):
        if start:
            await asyncio.sleep(0)
        learner.take(batch.entries[start : start + AT_ONCE], live=live)
    learner.position = batch.position
    await asyncio.sleep(0)


async def _save(taken: Snapshot, store: Store, reader: LogReader) -> None:
    """Write a snapshot; what came before it is not needed any more."""
    if await snapshot.write(taken, store):
        await reader.acknowledge(taken.position)
