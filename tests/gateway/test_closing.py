"""SIGUSR1: the end of the cluster is near. Programs that live go on, new ones are refused."""

import asyncio
import itertools
import os
import signal

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
    world.scheduler.lists.clear()
    os.kill(os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(20), world.scheduler.heard:
        await world.scheduler.heard.wait_for(lambda: world.scheduler.listings)
    assert (await world.post(CHAT, chat("meanwhile"), x_legato_program_id="meanwhile"))[0] == 200
    world.scheduler.lists.set()
    await refused(world)
    assert (await world.post(CHAT, chat("after"), x_legato_program_id="meanwhile"))[0] == 200


async def refused(world: World) -> int:
    """What a new program is answered, once it is not served any more."""
    async with asyncio.timeout(20):
        for number in itertools.count():  # each round is a call; the gateway asks the scheduler meanwhile
            status, _, _ = await world.post(CHAT, chat("after"), x_legato_program_id=f"new-{number}")
            if status != 200:
                return status
    raise AssertionError("not reached")
