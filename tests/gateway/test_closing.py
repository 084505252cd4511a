"""SIGUSR1: the end of the cluster is near. Programs that live go on, new ones are refused."""

import asyncio
import itertools
import os
import signal

import pytest

from tests.gateway.asking import CHAT, chat
from tests.gateway.conftest import World

NUM_LIVE = 20_000
LIVE = f"p{NUM_LIVE - 1}"
"""The program that the scheduler lists last."""


async def test_new_programs_are_refused_and_live_ones_go_on(world: World) -> None:
    world.scheduler.live = [f"p{number}" for number in range(NUM_LIVE)]
    assert (await world.post(CHAT, chat("before")))[0] == 200
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await refused(world) == 503
    _, body, headers = await world.post(CHAT, chat("after"), x_legato_program_id="new")
    assert body["error"]["code"] == "draining"
    assert int(headers["Retry-After"]) > 0
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200


async def test_programs_that_come_while_it_is_asked_who_lives_go_on(world: World) -> None:
    await listing(world)
    assert (await world.post(CHAT, chat("meanwhile"), x_legato_program_id="meanwhile"))[0] == 200
    world.scheduler.lists.set()
    await refused(world)
    assert (await world.post(CHAT, chat("after"), x_legato_program_id="meanwhile"))[0] == 200


async def test_a_scheduler_that_is_left_is_asked_again_who_lives(world: World) -> None:
    world.scheduler.live = [LIVE]
    await listing(world)
    world.scheduler.hang_up()
    await world.scheduler.wait_for("hello", 2)  # the gateway has closed its channel, which ended the question
    world.scheduler.lists.set()
    assert await refused(world) == 503
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200


async def test_a_leader_that_comes_between_two_pages_is_asked_from_the_first_on(world: World) -> None:
    world.scheduler.live = [f"p{number}" for number in range(NUM_LIVE)]
    first = await listing(world)
    world.scheduler.lists = asyncio.Event()
    first.set()
    await heard(world, 2)
    world.scheduler.term += 1
    world.scheduler.lists.set()
    assert await refused(world) == 503
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200


async def test_where_the_scheduler_knows_of_no_pages_those_that_it_cannot_list_are_not_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.gateway.closing._PAGELESS_AGAIN_SECONDS", 0.1)
    world.scheduler.live = [f"p{number}" for number in range(NUM_LIVE)]
    world.scheduler.pages = False
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard(world, 3)  # asked again: it was answered before
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200
    assert "still admitted" in caplog.text
    world.scheduler.pages = True
    assert await refused(world) == 503
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200


async def test_a_scheduler_that_knows_of_no_pages_may_list_all(world: World) -> None:
    world.scheduler.live = [f"p{number}" for number in range(1_000)]
    world.scheduler.pages = False
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await refused(world) == 503


async def test_a_program_whose_first_call_is_not_yet_known_goes_on(world: World) -> None:
    world.worker.stop_after = 0
    asking = asyncio.create_task(world.post(CHAT, chat("first"), x_legato_program_id="early"))
    await world.worker.wait_for(lambda worker: len(worker.starts) == 1)
    os.kill(os.getpid(), signal.SIGUSR1)  # the scheduler lists "p" alone
    world.worker.stop_after = None
    assert await refused(world) == 503
    world.worker.resume.set()
    assert (await asking)[0] == 200
    assert (await world.post(CHAT, chat("second"), x_legato_program_id="early"))[0] == 200


async def test_a_second_signal_changes_nothing(world: World) -> None:
    first = await listing(world)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert (await world.post(CHAT, chat("meanwhile"), x_legato_program_id="meanwhile"))[0] == 200
    first.set()
    assert await refused(world) == 503
    assert (await world.post(CHAT, chat("after"), x_legato_program_id="meanwhile"))[0] == 200
    assert len(world.scheduler.listings) == 1


async def listing(world: World) -> asyncio.Event:
    """The gateway asks who lives, and is answered once that is set."""
    world.scheduler.lists.clear()
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard(world, 1)
    return world.scheduler.lists


async def heard(world: World, count: int) -> None:
    async with asyncio.timeout(20), world.scheduler.heard:
        await world.scheduler.heard.wait_for(lambda: len(world.scheduler.listings) >= count)


async def refused(world: World) -> int:
    """What a new program is answered, once it is not served any more."""
    async with asyncio.timeout(20):
        for number in itertools.count():  # each round is a call; the gateway asks the scheduler meanwhile
            status, _, _ = await world.post(CHAT, chat("after"), x_legato_program_id=f"new-{number}")
            if status != 200:
                return status
    raise AssertionError("not reached")
