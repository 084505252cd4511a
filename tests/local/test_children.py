"""Children that are told to go more than once go once."""

import asyncio

from services.local.children import children

SECONDS = 20.0


async def test_a_child_that_goes_already_is_not_stopped_again() -> None:
    async with asyncio.timeout(SECONDS), children(SECONDS) as group:
        group.start("one", ("sleep", "60"))
        await group.retire("one", SECONDS)  # before it has begun, so there is no process
        await group.retire("one", SECONDS)
        assert not group.pids
