"""A gateway dies: its calls go on at the next one, behind what came."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import legato
from legato.addresses import Addresses
from legato.received import Received
from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import Context, FakeGateway, Step, finish
from tests.servers import free_port

NUM_TOKENS = 8
WHOLE = "".join(f" {index}" for index in range(NUM_TOKENS))
SEED = 77


class Counting(FakeGateway):
    """Says ` 0 1 2 ...` a token at a time from where it is asked to go on; at `stop_at` it says no more."""

    def __init__(self, stop_at: int | None = None, *, names_tokens: bool = True) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.names_tokens = names_tokens
        self.refusals: list[Failure] = []

    async def Chat(self, request: gateway_pb2.ChatRequest, context: Context) -> AsyncIterator[gateway_pb2.ChatResponse]:
        self.calls.append(request)
        if self.refusals:
            await rpc.abort(context, self.refusals.pop(0))
        first = len(request.resume.token_ids) if self.names_tokens else 0
        for index in range(first, NUM_TOKENS):
            if index == self.stop_at:
                await asyncio.Event().wait()
            yield self._said(index, first)
        last = finish()
        last.offset = NUM_TOKENS
        yield last

    def _said(self, index: int, first: int) -> gateway_pb2.ChatResponse:
        response = gateway_pb2.ChatResponse(offset=index, text=f" {index}", num_tokens=1)
        if self.names_tokens:
            response.token_ids.append(100 + index)
            if index == first == 0:
                response.seed = SEED
        return response


class Served:
    """A gateway that can be killed."""

    def __init__(self, gateway: FakeGateway, port: int = 0) -> None:
        self.gateway = gateway
        self._server = grpc.aio.server()
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self._server.start()

    async def kill(self) -> None:
        await self._server.stop(None)


@asynccontextmanager
async def serving(*gateways: FakeGateway, port: int = 0) -> AsyncGenerator[list[Served]]:
    async with AsyncExitStack() as stack:
        served = [Served(gateway, port) for gateway in gateways]
        for one in served:
            await one.start()
            stack.push_async_callback(one.kill)
        yield served


def opened(*served: Served) -> legato.Client:
    return legato.Client(",".join(one.address for one in served))


async def read(stream: legato.Stream, until: int = NUM_TOKENS) -> str:
    """Text up to so many tokens."""
    text = ""
    while text.count(" ") < until:
        text += (await anext(stream)).text
    return text


async def test_a_stream_goes_on_at_the_next_address_behind_what_came() -> None:
    async with asyncio.timeout(30), serving(Counting(3), Counting(3)) as both, opened(*both) as client:
        async with client.program().agent("coder").stream("hi", temperature=0) as stream:
            text = await read(stream, 3)
            lost, other = both if client.address == both[0].address else both[::-1]
            assert isinstance(other.gateway, Counting)
            other.gateway.stop_at = None
            await lost.kill()
            text += await read(stream, NUM_TOKENS - 3)
            await stream.finish()
        assert client.address == other.address
    assert text == stream.reply.text == WHOLE
    [first], [again] = lost.gateway.calls, other.gateway.calls
    assert not first.HasField("resume")
    assert again.resume == gateway_pb2.Resume(token_ids=[100, 101, 102], num_chars=6, seed=SEED)
    again.ClearField("resume")
    assert again == first


async def test_a_client_waits_for_its_gateway_longer_than_it_retries() -> None:
    port = free_port()
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        [first] = await stack.enter_async_context(serving(Counting(3), port=port))
        client = await stack.enter_async_context(legato.Client(first.address, max_retries=0))
        program = client.program()
        stream = await stack.enter_async_context(program.agent("coder").stream("hi"))
        await read(stream, 3)
        await first.kill()
        rest = asyncio.create_task(stream.finish())
        with pytest.raises(legato.Unavailable):  # its one try, without patience, is over
            async with legato.Client(first.address, max_retries=0) as other:
                await other.models()
        await stack.enter_async_context(serving(Counting(), port=port))
        assert (await rest).text == WHOLE


async def test_a_whole_answer_is_asked_for_again() -> None:
    async with asyncio.timeout(30), serving(Counting(0), Counting(0)) as both, opened(*both) as client:
        asking = asyncio.create_task(client.program().agent("coder").chat("hi"))
        await client.models()
        lost, other = both if client.address == both[0].address else both[::-1]
        assert isinstance(other.gateway, Counting)
        other.gateway.stop_at = None
        await lost.kill()
        assert (await asking).text == WHOLE
    assert not other.gateway.calls[0].HasField("resume")


async def test_a_successor_is_found_through_the_connection_file(tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    async with asyncio.timeout(30), serving(Counting(3), Counting()) as (first, second), AsyncExitStack() as stack:
        file.write_text(json.dumps({"addresses": [first.address], "api_key": "first", "written": 1}))
        client = await stack.enter_async_context(legato.Client(str(file)))
        stream = await stack.enter_async_context(client.program().agent("coder").stream("hi"))
        text = await read(stream, 3)
        file.write_text("{")  # half written
        await first.kill()
        rest = asyncio.create_task(read(stream, NUM_TOKENS - 3))
        file.write_text(json.dumps({"addresses": [second.address], "api_key": "second", "ca_file": ""}))
        text += await rest
        assert client.address == second.address
        await stream.finish()
    assert text == WHOLE


async def test_who_calls_is_said_with_the_key_of_the_connection_file(tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    said: list[grpc.aio.Metadata] = []

    class Door(FakeGateway):
        async def ListModels(
            self, request: gateway_pb2.ListModelsRequest, context: Context
        ) -> gateway_pb2.ListModelsResponse:
            said.append(grpc.aio.Metadata(*(context.invocation_metadata() or ())))
            return gateway_pb2.ListModelsResponse()

    async with serving(Door()) as [door]:
        file.write_text(json.dumps({"addresses": [door.address], "api_key": "sesame"}))
        async with legato.Client(str(file)) as client:
            await client.models()
    assert said[0]["authorization"] == "Bearer sesame"


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Reason.CALL_EXISTS, "the dead one was not missed yet", None, 0.01),
        Failure(Reason.MODEL_NOT_FOUND, "no worker came yet", None, 0.01),
        Failure(Reason.NO_SCHEDULER, "nor a scheduler", None, 0.01),
        Failure(Reason.TOO_MANY_CALLS, "everybody came at once", None, 0.01),
        Failure(Reason.DRAINING, "this one goes, too", None, 0.01),
    ],
)
async def test_who_lost_a_gateway_is_patient_with_the_next(failure: Failure) -> None:
    port = free_port()
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        [first] = await stack.enter_async_context(serving(Counting(3), port=port))
        client = await stack.enter_async_context(legato.Client(first.address, max_retries=0))
        stream = await stack.enter_async_context(client.program().agent("coder").stream("hi"))
        await read(stream, 3)
        await first.kill()
        successor = Counting()
        successor.refusals = [failure] * 3
        await stack.enter_async_context(serving(successor, port=port))
        assert (await stream.finish()).text == WHOLE
    assert [len(call.resume.token_ids) for call in successor.calls] == [3] * 4


async def test_patience_ends() -> None:
    async with asyncio.timeout(30), serving(Counting(3)) as [only], AsyncExitStack() as stack:
        client = await stack.enter_async_context(legato.Client(only.address, max_retries=0, reconnect_seconds=0.2))
        stream = await stack.enter_async_context(client.program().agent("coder").stream("hi"))
        await read(stream, 3)
        await only.kill()
        with pytest.raises(legato.Unavailable):
            await stream.finish()


async def test_what_an_older_gateway_began_is_not_begun_again() -> None:
    old = Counting(3, names_tokens=False)
    async with asyncio.timeout(30), serving(old, Counting()) as both, AsyncExitStack() as stack:
        client = await stack.enter_async_context(legato.Client(both[0].address))
        stream = await stack.enter_async_context(client.program().agent("coder").stream("hi"))
        await read(stream, 3)
        await both[0].kill()
        with pytest.raises(legato.Unavailable):
            await stream.finish()


async def test_what_is_repeated_is_found_out() -> None:
    """By a gateway that does not know how to go on."""
    port = free_port()
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        [first] = await stack.enter_async_context(serving(Counting(3), port=port))
        client = await stack.enter_async_context(legato.Client(first.address))
        stream = await stack.enter_async_context(client.program().agent("coder").stream("hi"))
        await read(stream, 3)
        await first.kill()
        await stack.enter_async_context(serving(Counting(names_tokens=False), port=port))
        with pytest.raises(legato.InternalError, match="token 0 where 3 was next"):
            await stream.finish()


async def test_questions_go_to_the_gateway_that_is_there() -> None:
    async with asyncio.timeout(30), serving(FakeGateway()) as [there], AsyncExitStack() as stack:
        client = await stack.enter_async_context(legato.Client(f"127.0.0.1:{free_port()}, {there.address}"))
        for _ in range(3):
            assert [model.name for model in await client.models()] == ["tiny"]


EVENTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2**31), max_size=3), st.text(max_size=3), st.text(max_size=2)), max_size=12
)


@given(EVENTS, st.integers(0, 12), st.none() | st.integers(-(2**63), 2**63 - 1))
def test_what_came_is_told_whole_wherever_it_breaks_off(
    said: list[tuple[list[int], str, str]], breaks_at: int, seed: int | None
) -> None:
    received, tokens, chars = Received(), list[int](), 0
    for number, (token_ids, text, reasoning) in enumerate(said[:breaks_at]):
        if not token_ids and not tokens:
            text = reasoning = ""  # nothing is said before there are tokens
        event = gateway_pb2.ChatResponse(
            offset=len(tokens), token_ids=token_ids, num_tokens=len(token_ids), text=text, reasoning=reasoning
        )
        if number == 0 and seed is not None:
            event.seed = seed
        received.add(event)
        tokens += token_ids
        chars += len(text)
    request = gateway_pb2.ChatRequest(identity=call_pb2.CallIdentity(program_id="p"))
    received.ask(request)
    assert received.resumable
    assert request.HasField("resume") == bool(tokens)
    assert (list(request.resume.token_ids), request.resume.num_chars) == (tokens, chars if tokens else 0)
    assert not tokens or request.resume.HasField("seed") == (seed is not None and bool(said[:breaks_at]))


@pytest.mark.parametrize(
    "said",
    ["/run/legato/connection.json", "./connection", "~/legato", "connection.json"],
)
def test_a_path_is_told_from_an_address(said: str) -> None:
    addresses = Addresses(said)
    assert addresses.path is not None
    assert Path(addresses.said).is_absolute()
    assert Addresses("node-3.cluster.org:8001").path is None


@pytest.mark.parametrize("said", ["", " , ", "  "])
def test_no_address_is_refused(said: str) -> None:
    with pytest.raises(legato.InvalidRequest, match="address"):
        Addresses(said)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"addresses": []}', '{"addresses": 3}', "\x00"])
def test_a_file_that_says_nothing_is_no_connection(tmp_path: Path, text: str) -> None:
    file = tmp_path / "connection.json"
    file.write_text(text)
    with pytest.raises(legato.Unavailable, match="connection file") as caught:
        Addresses(str(file)).read()
    assert caught.value.reason == "NO_CONNECTION_FILE"


@given(st.lists(st.integers(1, 65_535).map("host:{}".format), min_size=1, max_size=5, unique=True))
def test_each_gateway_gets_its_turn(listed: list[str]) -> None:
    connection = Addresses(",".join(listed)).read()
    address, tried = "", set[str]()
    for _ in listed:
        address = connection.after(address)
        tried.add(address)
    assert tried == set(listed)


async def test_steps_are_taken_elsewhere_only_when_the_gateway_is_gone(gateway: FakeGateway, address: str) -> None:
    named = gateway_pb2.ChatResponse(text="half", num_tokens=1, token_ids=[5])
    failed: list[Step] = [named, Failure(Reason.ENGINE_DEAD, "gone")]
    gateway.answers.append(failed)
    async with legato.Client(address) as client, client.program() as program:
        with pytest.raises(legato.Unavailable, match="gone"):
            await program.agent("coder").chat("hi")
    assert len(gateway.calls) == 1
