"""The end of a program reaches the cluster, even if nobody is there to hear it when it ends."""

import asyncio

import pytest

import legato
from legato.v1 import gateway_pb2
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import Context, FakeGateway, serving

AWAY = Failure(Reason.NO_SCHEDULER, "no scheduler can be reached", retry_after_seconds=0.02)


async def test_an_end_that_nobody_hears_yet_is_told_later(address: str, gateway: FakeGateway) -> None:
    async with asyncio.timeout(20), legato.Client(address) as client:
        async with client.program("p") as program:
            await program.agent("coder").chat("hi")
            gateway.refusal = AWAY
        assert gateway.ended == []
        gateway.refusal = None
    assert gateway.ended == ["p"]


async def test_an_end_is_told_however_often_it_takes(
    address: str, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(20), legato.Client(address, max_retries=0) as client:
        await client.models()
        gateway.refusal = AWAY
        ending = asyncio.create_task(client.program("p").end())
        for _ in range(10):
            await gateway.refused.acquire()
        gateway.refusal = None
        await ending
    assert gateway.ended == ["p"]
    assert caplog.text == ""


async def test_a_cluster_that_is_gone_holds_nobody_up_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("legato.endings._PROGRAM_SECONDS", 0.05)
    monkeypatch.setattr("legato.endings._CLOSE_SECONDS", 0.1)
    async with asyncio.timeout(20):
        async with serving(FakeGateway()) as address:
            client = legato.Client(address, reconnect_seconds=3_600.0)
            await client.__aenter__()
            await client.models()
        async with client.program("p"), client.program("q"):
            pass
        assert caplog.text == ""
        await client.__aexit__(None, None, None)
    for program_id in ("p", "q"):
        assert f"program {program_id} could not be ended before its client closed" in caplog.text


async def test_where_there_never_was_a_gateway_nothing_is_told_later(caplog: pytest.LogCaptureFixture) -> None:
    client = legato.Client("127.0.0.1:1", reconnect_seconds=3_600.0)
    async with asyncio.timeout(20), client, client.program("p"):
        pass
    assert "program p could not be ended: " in caplog.text  # it gave up by itself


async def test_a_client_that_was_never_opened_says_so() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        async with legato.Client("127.0.0.1:1").program("p"):
            pass


async def test_a_program_that_is_opened_again_is_not_ended_by_the_time_before(
    address: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("legato.endings._PROGRAM_SECONDS", 0.05)
    async with asyncio.timeout(20), legato.Client(address) as client:
        await client.models()
        gateway.refusal = AWAY
        async with client.program("session"):
            pass
        async with client.program("session") as program:
            gateway.refusal = None
            await program.agent("coder").chat("hi")
            assert gateway.ended == []
    assert gateway.ended == ["session"]
    assert caplog.text == ""


async def test_a_close_that_is_cancelled_leaves_nothing_running(
    address: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.endings._PROGRAM_SECONDS", 0.05)
    client = legato.Client(address)
    await client.__aenter__()
    await client.models()
    gateway.refusal = Failure(Reason.NO_SCHEDULER, "no scheduler can be reached", retry_after_seconds=10.0)
    async with client.program("p"):
        pass
    closing = asyncio.create_task(client.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait((closing,))
    assert closing.cancelled()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("end program")] == []


class Slow(FakeGateway):
    """Hears of ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.goes_on = asyncio.Semaphore(0), {"p": asyncio.Event(), "q": asyncio.Event()}

    async def EndProgram(
        self, request: gateway_pb2.EndProgramRequest, context: Context
    ) -> gateway_pb2.EndProgramResponse:
        self.asked.release()
        await self.goes_on[request.program_id].wait()
        return await super().EndProgram(request, context)


async def test_an_end_that_is_begun_while_the_client_closes_is_waited_for() -> None:
    gateway = Slow()
    async with asyncio.timeout(20), serving(gateway) as address, asyncio.TaskGroup() as tasks:
        client = legato.Client(address)
        await client.__aenter__()
        first, second = client.program("p"), client.program("q")
        tasks.create_task(first.__aexit__(None, None, None))
        await gateway.asked.acquire()
        closing = tasks.create_task(client.__aexit__(None, None, None))
        await asyncio.sleep(0)
        tasks.create_task(second.__aexit__(None, None, None))
        await gateway.asked.acquire()
        gateway.goes_on["p"].set()
        _, waiting = await asyncio.wait((closing,), timeout=0.2)
        gateway.goes_on["q"].set()
    assert waiting == {closing}
    assert gateway.ended == ["p", "q"]
