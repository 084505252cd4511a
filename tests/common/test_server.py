"""A served service: health, reflection, drain, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from services.common import rpc
from services.common.errors import Reason
from services.common.server import grpc_server
from tests.common.probe import NAME, Client, Probe, probe

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


async def echo(request: bytes) -> bytes:
    return request


async def hang(_: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def health(client: Client, service: str) -> int:
    check: Any = client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    return (await check(HealthCheckRequest(service=service))).status


async def health_changes(client: Client) -> AsyncIterator[int]:
    watch: Any = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    async for response in watch(HealthCheckRequest(service=NAME)):
        yield response.status


async def test_health_says_whether_the_service_serves():
    async with probe(echo) as client:
        assert await health(client, "") == await health(client, NAME) == SERVING
        client.server.set_serving(False)
        assert await health(client, "") == await health(client, NAME) == NOT_SERVING
        client.server.set_serving(True)
        assert await health(client, NAME) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(client, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_of_health_hears_of_the_drain_and_does_not_delay_it():
    heard: list[int] = []
    first = asyncio.Event()

    async def listen(client: Client) -> None:
        async for status in health_changes(client):
            heard.append(status)
            first.set()

    # The channel outlives the server, so the watcher sees the server's end and not its own.
    async with (
        asyncio.timeout(5),
        asyncio.TaskGroup() as tasks,
        grpc_server(Probe(echo).add_to, host="127.0.0.1", port=0, drain_seconds=60) as server,
    ):
        channel = rpc.channel(server.address)
        tasks.create_task(listen(Client(channel, server)))
        await first.wait()
    await channel.close()
    assert heard == [SERVING, NOT_SERVING]


async def test_reflection_lists_the_services():
    request = ServerReflectionRequest(list_services="")
    async with probe(echo) as client:
        call: Any = client.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )(iter([request]))
        names = {service.name async for response in call for service in response.list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_drain_waits_for_a_live_rpc_and_takes_no_new_one():
    entered, finish = asyncio.Event(), asyncio.Event()

    async def act(request: bytes) -> bytes:
        entered.set()
        await finish.wait()
        return request

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        leave = asyncio.Event()
        started: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            async with grpc_server(Probe(act).add_to, host="127.0.0.1", port=0, drain_seconds=60) as server:
                started.set_result(Client(rpc.channel(server.address), server))
                await leave.wait()

        serving = tasks.create_task(serve())
        client = await started
        live = tasks.create_task(client.call("unary_unary", b"live"))
        await entered.wait()
        leave.set()
        await client.server.draining.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("unary_unary", b"late")
        assert rpc.failure_from(caught.value).reason is Reason.DRAINING
        assert await health(client, NAME) == NOT_SERVING
        assert not serving.done()
        finish.set()
        assert await live == b"live"
        await serving
        await client.channel.close()


async def test_a_drain_cancels_what_outlasts_it():
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def act(_: bytes) -> bytes:
        entered.set()
        try:
            return await hang(b"")
        finally:
            cancelled.set()

    async with asyncio.timeout(10):
        async with grpc_server(Probe(act).add_to, host="127.0.0.1", port=0, drain_seconds=0.05) as server:
            channel = rpc.channel(server.address)
            live = asyncio.ensure_future(Client(channel, server).call("stream_stream", b"x"))
            await entered.wait()
        await cancelled.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await live
        await channel.close()


async def test_a_client_that_goes_away_cancels_the_work_and_its_clean_up_runs():
    entered, cleaned = asyncio.Event(), asyncio.Event()

    async def act(_: bytes) -> bytes:
        entered.set()
        try:
            return await hang(b"")
        finally:
            cleaned.set()

    async with asyncio.timeout(10), probe(act) as client:
        abandoned = asyncio.ensure_future(client.call("unary_stream"))
        await entered.wait()
        abandoned.cancel()
        await cleaned.wait()


async def test_a_taken_port_is_refused():
    async with probe(echo) as client:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{client.server.port}"):
            async with grpc_server(Probe(echo).add_to, host="127.0.0.1", port=client.server.port, drain_seconds=0):
                pass


async def test_a_channel_finds_a_peer_that_was_restarted():
    async with probe(echo, drain_seconds=0) as client:
        port = client.server.port
        assert await client.call("unary_unary", b"1") == b"1"
    channel = rpc.channel(f"127.0.0.1:{port}")
    method: Any = channel  # multicallables are generic in what they send
    call = method.unary_unary(f"/{NAME}/unary_unary")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"2")
    async with grpc_server(Probe(echo).add_to, host="127.0.0.1", port=port, drain_seconds=0):
        assert await call(b"3", wait_for_ready=True, timeout=5) == b"3"
        await channel.close()
