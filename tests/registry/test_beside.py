"""Work beside a block: errors come out alone, whoever fails."""

import asyncio

import pytest

from services.common.registry.beside import beside


async def test_the_works_error_ends_the_block() -> None:
    async def work() -> None:
        raise LookupError("the work")

    with pytest.raises(LookupError, match="the work"):
        async with beside(work()):
            await asyncio.Event().wait()


async def test_both_may_fail_at_once() -> None:
    """As when a loop was busy for long and finds a lapsed lease and a deleted key together."""

    async def work() -> None:
        raise LookupError("the work")

    async def both() -> None:
        async with beside(work()):
            await asyncio.sleep(0)
            raise LookupError("the block")

    with pytest.raises(LookupError) as raised:
        await both()
    assert isinstance(raised.value.__cause__, BaseExceptionGroup)
