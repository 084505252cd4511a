"""A standby follows a leader whose process is dead without waiting for its lease, and leaves all others alone."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import grpc
import pytest

from legato.v1 import scheduler_pb2, scheduler_pb2_grpc
from services.common import registry
from services.common.registry import Leader, Registry
from services.common.server import grpc_server
from services.scheduler.config import Settings
from services.scheduler.service import running
from services.scheduler.vigil import Vigil
from tests.scheduler.fake_worker import SECONDS
from tests.scheduler.test_service import leads
from tests.servers import free_port

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class FakeLeader(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Lets itself be attended, until the streams are told to end."""

    def __init__(self) -> None:
        self._num_attended = 0
        self._attended = asyncio.Condition()
        self._ended = asyncio.Event()

    async def Attend(
        self, request: scheduler_pb2.AttendRequest, context: Context
    ) -> AsyncGenerator[scheduler_pb2.AttendResponse]:
        yield scheduler_pb2.AttendResponse()
        async with self._attended:
            self._num_attended += 1
            self._attended.notify_all()
        await self._ended.wait()

    async def attended(self, times: int) -> None:
        """Wait until it was, so often."""
        async with asyncio.timeout(SECONDS), self._attended:
            await self._attended.wait_for(lambda: self._num_attended >= times)

    def hang_up(self) -> None:
        """End all streams."""
        self._ended.set()
        self._ended = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> tuple[str]:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(self, server)
        return (scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name,)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No lease ends while a test runs."""
    return settings.model_copy(update={"registry": settings.registry.model_copy(update={"lease_seconds": 600})})


@pytest.fixture
async def members(settings: Settings) -> AsyncIterator[Registry]:
    async with registry.connect(settings.registry, settings.cluster.name) as connected:
        yield connected


async def test_a_leader_whose_process_died_is_followed_and_hears_of_it(settings: Settings, members: Registry) -> None:
    leader = FakeLeader()  # pyright: ignore[reportAbstractUsage] (RPCs that no standby calls)
    async with AsyncExitStack() as process:
        server = await process.enter_async_context(
            grpc_server(leader.add_to, host="127.0.0.1", port=0, drain_seconds=0)
        )
        async with members.lead("scheduler", "leader", server.address) as leadership, running(settings) as standby:
            await leader.attended(1)
            assert not standby.leading.is_set()
            await process.aclose()
            await leads(standby)
            async with asyncio.timeout(SECONDS):
                await leadership.lost.wait()


async def test_a_leader_that_only_broke_the_stream_is_attended_again(settings: Settings, members: Registry) -> None:
    leader = FakeLeader()  # pyright: ignore[reportAbstractUsage] (RPCs that no standby calls)
    async with (
        grpc_server(leader.add_to, host="127.0.0.1", port=0, drain_seconds=0) as server,
        members.lead("scheduler", "leader", server.address) as leadership,
        running(settings) as standby,
    ):
        for times in (1, 2, 3):
            await leader.attended(times)
            leader.hang_up()
        await leader.attended(4)
        assert not leadership.lost.is_set()
        assert not standby.leading.is_set()


async def test_a_leader_that_died_on_this_host_before_anybody_stood_by_is_dead(
    settings: Settings, members: Registry
) -> None:
    async with members.lead("scheduler", "long dead", f"127.0.0.1:{free_port()}"), running(settings) as scheduler:
        await leads(scheduler)


async def test_a_leader_in_whose_place_another_process_answers_is_dead(settings: Settings, members: Registry) -> None:
    """As when its supervisor started it again: the new life cannot wait for the lease of the one before."""
    port = free_port()
    again = settings.model_copy(update={"scheduler": settings.scheduler.model_copy(update={"port": port})})
    async with members.lead("scheduler", "life before", f"127.0.0.1:{port}"), running(again) as scheduler:
        await leads(scheduler)


async def test_who_leads_is_attended_on_when_other_candidates_come_and_go() -> None:
    seen: list[asyncio.Task[object]] = []
    told = asyncio.Event()

    class Told(Registry):
        def __init__(self) -> None:
            """Without etcd."""

        async def leaders(self, name: str) -> AsyncGenerator[Leader | None]:
            for _ in range(3):
                yield Leader("leader", f"127.0.0.1:{server.port}", 1, "key", 1)
                await leader.attended(1)
                seen.extend(task for task in asyncio.all_tasks() if task.get_name() == "watch leader")
            told.set()
            await asyncio.Event().wait()

    leader = FakeLeader()  # pyright: ignore[reportAbstractUsage] (RPCs that no standby calls)
    async with grpc_server(leader.add_to, host="127.0.0.1", port=0, drain_seconds=0) as server:
        keeping = asyncio.create_task(Vigil(Told(), "scheduler", "standby").keep())
        async with asyncio.timeout(SECONDS):
            await told.wait()
        keeping.cancel()
        await asyncio.wait([keeping])
    assert len(seen) == 3
    assert len(set(seen)) == 1
