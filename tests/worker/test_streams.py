"""What waits to be sent to a watcher."""

import asyncio

import pytest

from legato.v1 import worker_pb2
from services.worker.streams import Watcher


async def test_urgent_news_cut_a_pause_short_once() -> None:
    watcher = Watcher(worker_pb2.WatchResponse())
    async with asyncio.timeout(10):
        await watcher.take()
        watcher.load(worker_pb2.Load(draining=True))
        watcher.hurry()
        await watcher.pause(3600)
        assert (await watcher.take()).load.draining
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watcher.pause(3600)
