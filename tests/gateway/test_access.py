"""API keys at both doors: who comes in, and what a tenant's key is good for."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from legato.v1 import call_pb2, gateway_pb2, gateway_pb2_grpc, kv_pb2, scheduler_pb2, workflow_pb2
from services.common import rpc
from services.common.config import SettingsError
from services.common.errors import Reason
from services.gateway import access
from tests.gateway.asking import CHAT, chat
from tests.gateway.conftest import Make, World
from tests.gateway.test_workflow import FakeWorkflow, serving

ANY, BOUND, OTHER, WRONG = "key-of-all-tenants", "key-of-one", "key-of-another", "key-of-nobody"
TENANT = "acme"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may come in\n{ANY}\n\n{BOUND}  {TENANT}\n{OTHER} blue\n", encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
async def locked(make_world: Make, keys_file: Path) -> AsyncIterator[World]:
    async with make_world(api_keys_file=str(keys_file)) as world:
        yield world


@pytest.fixture
async def stub(locked: World) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    async with rpc.channel(locked.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


def metadata(key: str) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("authorization", f"Bearer {key}"))


def asked(tenant: str = "") -> gateway_pb2.ChatRequest:
    message = gateway_pb2.Message(role="user", content="hello")
    return gateway_pb2.ChatRequest(messages=[message], identity=call_pb2.CallIdentity(tenant=tenant))


async def test_without_a_key_there_is_no_http(locked: World) -> None:
    for authorization, message in (
        (None, "an API key is needed: Authorization: Bearer KEY"),
        (f"Bearer {WRONG}", "the API key is not known here"),
        ("Bearer", "the API key is not known here"),
        (f"Basic {ANY}", "must be Bearer and an API key"),
        (f"Bearer {ANY} {ANY}", "the API key is not known here"),
        ("Bearer é", "the API key is not known here"),
    ):
        headers = {"Authorization": authorization} if authorization else {}
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nowhere")):
            async with locked.http.request(method, path, headers=headers, json=chat()) as response:
                error = (await response.json())["error"]
                kind = (response.status, error["type"], error["code"])
                assert kind == (401, "authentication_error", "unauthenticated")
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert message in error["message"]
                assert WRONG not in error["message"]
    assert locked.scheduler.said("submit") == []


async def test_with_a_key_there_is(locked: World) -> None:
    for authorization in (f"Bearer {ANY}", f"bearer  {BOUND} "):
        async with locked.http.post(CHAT, json=chat(), headers={"Authorization": authorization}) as response:
            assert response.status == 200


async def test_probes_of_health_need_no_key(locked: World) -> None:
    for path in ("/health", "/readyz", "/ping"):
        async with locked.http.get(path) as response:
            assert response.status == 200


async def test_without_a_key_there_is_no_grpc(locked: World, stub: gateway_pb2_grpc.GatewayServiceStub) -> None:
    for said in (None, metadata(WRONG), grpc.aio.Metadata(("authorization", ANY))):
        with pytest.raises(grpc.aio.AioRpcError) as listing:
            await stub.ListModels(gateway_pb2.ListModelsRequest(), metadata=said)
        with pytest.raises(grpc.aio.AioRpcError) as chatting:
            await stub.Chat(asked(), metadata=said).read()
        for error in (listing.value, chatting.value):
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert rpc.failure_from(error).reason is Reason.UNAUTHENTICATED
    assert locked.scheduler.said("submit") == []


async def test_a_bound_key_makes_calls_of_its_tenant_only(
    locked: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    for named in ("", TENANT):
        headers = {"Authorization": f"Bearer {BOUND}", "x-legato-tenant": named}
        async with locked.http.post(CHAT, json=chat(), headers=headers) as response:
            assert response.status == 200
        [_ async for _ in stub.Chat(asked(named), metadata=metadata(BOUND))]
        assert [submit.identity.tenant for submit in locked.scheduler.said("submit")[-2:]] == [TENANT] * 2
    headers = {"Authorization": f"Bearer {BOUND}", "x-legato-tenant": "red"}
    async with locked.http.post(CHAT, json=chat(), headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "permission_denied")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Chat(asked("red"), metadata=metadata(BOUND)).read()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_holds_for_its_own_request_on_a_shared_connection(locked: World) -> None:
    for key, tenant in ((BOUND, TENANT), (ANY, "red"), (BOUND, TENANT), (ANY, "")):
        headers = {"Authorization": f"Bearer {key}", "x-legato-tenant": tenant}
        async with locked.http.post(CHAT, json=chat(), headers=headers) as response:
            assert response.status == 200
        assert locked.scheduler.said("submit")[-1].identity.tenant == tenant


async def test_a_bound_key_sees_nothing_of_the_cluster(
    locked: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    role = scheduler_pb2.SetWorkerRoleRequest(worker_id="worker-0", role=kv_pb2.WORKER_ROLE_BOTH)
    for call in (
        stub.ListWorkers(scheduler_pb2.ListWorkersRequest(), metadata=metadata(BOUND)),
        stub.ListPools(scheduler_pb2.ListPoolsRequest(), metadata=metadata(BOUND)),
        stub.SetWorkerRole(role, metadata=metadata(BOUND)),
        stub.ReadLog(workflow_pb2.ReadLogRequest(), metadata=metadata(BOUND)).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with locked.http.get("/metrics", headers={"Authorization": f"Bearer {BOUND}"}) as response:
        assert response.status == 403
    assert (await stub.ListWorkers(scheduler_pb2.ListWorkersRequest(), metadata=metadata(ANY))).workers


async def test_a_bound_key_lists_and_explains_its_own_programs(
    locked: World, stub: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    listing = scheduler_pb2.ListProgramsRequest()
    await stub.ListPrograms(listing, metadata=metadata(BOUND))
    assert locked.scheduler.listings[-1].tenant == TENANT
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListPrograms(scheduler_pb2.ListProgramsRequest(tenant="red"), metadata=metadata(BOUND))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    question = workflow_pb2.ExplainRequest(program_id="p")
    async with serving(FakeWorkflow(), locked.registry, "one"):  # its program is acme's
        for key in (BOUND, ANY):
            assert (await stub.Explain(question, metadata=metadata(key))).tenant == TENANT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Explain(question, metadata=metadata(OTHER))
    assert rpc.failure_from(refused.value).reason is Reason.PROGRAM_NOT_FOUND


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("secret-a\nsecret-a blue\n", "line 2 has the key of another line"),
        ("secret-a\nsecret-b \x07\n", "line 2: tenant must be printable"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_says_why_and_tells_no_key(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as refused:
        access.read(str(path))
    assert "secret" not in str(refused.value)
    with pytest.raises(SettingsError, match="No such file"):
        access.read(str(tmp_path / "missing"))


def test_a_file_that_others_can_read_is_warned_of(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    access.read(str(keys_file))
    assert caplog.text == ""
    keys_file.chmod(0o644)
    access.read(str(keys_file))
    assert "can be read by others than its owner" in caplog.text
