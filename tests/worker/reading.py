"""Reading streams in tests."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from legato.v1 import worker_pb2

SECONDS = 10


async def batch(stream: Any) -> worker_pb2.GenerateResponse:
    """The next response of a Generate."""
    async with asyncio.timeout(SECONDS):
        response = await stream.read()
    assert isinstance(response, worker_pb2.GenerateResponse)
    return response


async def news(stream: Any) -> worker_pb2.WatchResponse:
    """The next response of a Watch."""
    async with asyncio.timeout(SECONDS):
        response = await stream.read()
    assert isinstance(response, worker_pb2.WatchResponse)
    return response


async def outputs(stream: Any) -> AsyncGenerator[worker_pb2.CallOutput]:
    """What a Generate brings until it ends."""
    while response := await stream.read():
        for output in response.outputs:
            yield output


async def to_the_end(stream: Any) -> None:
    """Read and forget."""
    while await stream.read():
        pass
