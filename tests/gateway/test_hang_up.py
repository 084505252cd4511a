"""A client that hangs up while it is answered is no bug of ours."""

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.gateway.boundary import boundary


async def test_a_client_that_hangs_up_leaves_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()  # as it is once the client's end of the connection was seen
        try:
            await response.write(b"more")
        finally:
            ended.set()
        return response

    app = web.Application(middlewares=[boundary])
    app.router.add_get("/", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.get(server.make_url("/")) as response:
                await response.read()
        await ended.wait()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
