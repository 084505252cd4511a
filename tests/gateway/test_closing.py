"""SIGUSR1: the end of the cluster is near. Programs that live go on, new ones are refused."""

import asyncio
import os
import signal

from tests.gateway.asking import CHAT, chat
from tests.gateway.conftest import World

LIVE = "p"
"""The program that the fake scheduler lists."""


async def test_new_programs_are_refused_and_live_ones_go_on(world: World) -> None:
    assert (await world.post(CHAT, chat("before")))[0] == 200
    os.kill(os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(20):
        while (status := (await world.post(CHAT, chat("after"), x_legato_program_id="new"))[0]) == 200:
            pass  # each round is a call; the gateway asks the scheduler meanwhile
    assert status == 503
    _, body, headers = await world.post(CHAT, chat("after"), x_legato_program_id="new")
    assert body["error"]["code"] == "draining"
    assert int(headers["Retry-After"]) > 0
    assert (await world.post(CHAT, chat("after"), x_legato_program_id=LIVE))[0] == 200
