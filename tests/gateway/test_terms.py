"""Schedulers of several terms: a gateway follows the latest that it has heard of, and goes back to none."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from legato.v1 import scheduler_pb2
from services.common.errors import Failure
from services.gateway.schedule import Scheduler
from tests.gateway.asking import CHAT, chat
from tests.gateway.conftest import Make, World
from tests.gateway.fakes import FakeScheduler, serving

EARLY, LATE = 5, 7


@pytest.fixture
async def world(make_world: Make) -> AsyncIterator[World]:
    """Its scheduler leads the later term and keeps calls waiting."""
    async with make_world() as made:
        made.scheduler.term = LATE
        made.scheduler.holding = True
        made.scheduler.hang_up()
        yield made


def successor_of(world: World, term: int) -> FakeScheduler:
    successor = FakeScheduler()
    successor.workers, successor.term = world.workers, term
    return successor


async def asked(world: World) -> "asyncio.Task[tuple[int, Any, Any]]":
    """A call that waits at the scheduler of the later term."""
    asking = asyncio.create_task(world.post(CHAT, chat()))
    await world.scheduler.wait_for("submit")
    return asking


async def test_a_placement_tells_the_worker_in_which_term_it_was_made(world: World) -> None:
    world.scheduler.holding = False
    status, _, _ = await world.post(CHAT, chat())
    assert status == 200
    assert [start.term for start in world.worker.starts] == [LATE]


async def test_nothing_that_is_decided_in_an_earlier_term_is_obeyed(world: World) -> None:
    asking = await asked(world)
    world.scheduler.leads = False
    stale = successor_of(world, EARLY)
    async with serving(stale, world.registry, "scheduler-2"):
        world.scheduler.hang_up()
        hellos = await stale.wait_for("hello", 2)
        await stale.wait_for("submit", 2)  # placed by it, twice
        assert [hello.term for hello in hellos] == [LATE, LATE]
        assert world.worker.starts == []
        stale.term = LATE + 1
        status, _, _ = await asking
    assert status == 200
    assert {start.term for start in world.worker.starts} == {LATE + 1}


async def test_a_worker_that_has_heard_of_a_later_term_makes_its_gateways_look_for_it(world: World) -> None:
    asking = await asked(world)
    world.worker.term = LATE + 1
    async with serving(successor_of(world, LATE + 1), world.registry, "scheduler-2"):
        [submit] = world.scheduler.said("submit")
        world.scheduler.say(scheduler_pb2.SchedulerEvent(placement=placement_of(world, submit)))
        status, _, _ = await asking
    assert status == 200
    assert [start.term for start in world.worker.starts] == [LATE + 1]


async def test_a_scheduler_that_is_being_left_is_not_left_again(world: World) -> None:
    scheduler = Scheduler("gateway-1", grace_seconds=60.0)
    successor = successor_of(world, 0)  # it does not say, so that it is left for the others' word alone
    async with serving(successor, world.registry, "scheduler-2") as address:
        conversation = asyncio.create_task(scheduler.converse(address))
        await successor.wait_for("hello")
        for term in range(LATE + 1, LATE + 20):  # one may be told of by each of its workers' calls, before it is out
            scheduler.outgrow(term, "elsewhere:1")
            await asyncio.sleep(0)
        with pytest.raises(Failure, match="does not answer"):
            await conversation
    scheduler.close()


def placement_of(world: World, submit: scheduler_pb2.SubmitCall) -> scheduler_pb2.Placement:
    return scheduler_pb2.Placement(
        program_id=submit.identity.program_id,
        call_id=submit.identity.call_id,
        attempt=1,
        worker_id=world.worker.worker_id,
        worker_address=world.worker.address,
        term=world.scheduler.term,
    )


async def test_a_new_leader_is_followed_while_the_one_before_it_says_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    asking = await asked(world)
    caplog.clear()
    async with (
        world.registry.lead("scheduler", "scheduler-2", above=LATE) as leadership,
        serving(successor_of(world, leadership.term), world.registry, "scheduler-2"),
    ):
        status, _, _ = await asking
        assert warnings(caplog) == []  # the one before is left, and not lost
    assert status == 200
    assert [start.term for start in world.worker.starts] == [leadership.term]


async def test_a_scheduler_that_is_lost_is_missed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    asking = await asked(world)
    caplog.clear()
    world.scheduler.release()
    assert (await asking)[0] == 200
    assert [text.split()[0::2] for text in warnings(caplog)] == [["scheduler", "is"]]


async def test_a_gateway_that_ends_misses_nobody(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    async with make_world(scheduler_grace_seconds=0.0) as made:
        assert (await made.post(CHAT, chat()))[0] == 200
        caplog.clear()
    assert warnings(caplog) == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said of schedulers."""
    found = [record for record in caplog.records if record.name == "services.gateway.schedule"]
    return [record.getMessage() for record in found if record.levelno >= logging.WARNING]
