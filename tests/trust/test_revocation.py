"""What an operator does when a key has leaked (docs/threat-model.md), and what does not help."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from legato import certs
from services.common import rpc, server, state
from services.common.config import RegistrySection, StateSection
from services.common.errors import Reason
from services.common.registry import EtcdError, Member, connect
from services.common.state import credentials
from services.common.tls import Identity
from services.local import stores
from tests.servers.etcd import etcd
from tests.trust.conftest import CLUSTER, identity, issued
from tests.trust.redis import locked_redis
from tests.trust.test_access import ANSWERED, Everything, outcome

METHOD = "/legato.v1.SchedulerService/Schedule"


@asynccontextmanager
async def scheduler(own: Identity, port: int = 0) -> AsyncGenerator[server.GrpcServer]:
    door = server.inside(own)
    async with server.grpc_server(
        Everything().add_to, host="127.0.0.1", port=port, drain_seconds=0, door=door
    ) as served:
        yield served


async def calling(address: str, own: Identity) -> str:
    async with rpc.channel(address, "scheduler", own) as channel:
        return await outcome(channel, METHOD)


def hold(directory: Path, identities: Path, *trusted: Path) -> Path:
    """Put into a service's directory: identities of one authority, and certificates of those that it believes."""
    directory.mkdir(exist_ok=True)
    for service in ("gateway", "scheduler"):
        for kind in ("key", "pem"):
            shutil.copy(identities / f"{service}.{kind}", directory)
    (directory / "ca.pem").write_bytes(b"".join((authority / "ca.pem").read_bytes() for authority in trusted))
    return directory


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return issued(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return issued(tmp_path / "new")


async def test_renewing_does_not_shut_out_who_has_an_old_key(old: Path, tmp_path: Path) -> None:
    leaked = identity(hold(tmp_path / "leaked", old, old), "gateway")
    certs.issue(old, CLUSTER, (), 1, renew=True)
    async with scheduler(identity(old, "scheduler")) as served:
        assert await calling(served.address, leaked) == ANSWERED


async def test_a_new_authority_shuts_out_who_has_an_old_key(old: Path, new: Path, tmp_path: Path) -> None:
    """New connections at once, open ones with a restart. Whoever has it believes all authorities there are."""
    leaked = identity(hold(tmp_path / "leaked", old, old, new), "gateway")
    held = hold(tmp_path / "held", old, old)
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        async with scheduler(identity(held, "scheduler")) as served:
            opened = await stack.enter_async_context(rpc.channel(served.address, "scheduler", leaked))
            assert await outcome(opened, METHOD) == ANSWERED
            hold(held, new, new)
            assert await calling(served.address, identity(held, "gateway")) == ANSWERED
            assert await calling(served.address, leaked) == Reason.UNAVAILABLE.name
            assert await outcome(opened, METHOD) == ANSWERED
        async with scheduler(identity(held, "scheduler"), served.port):
            assert await outcome(opened, METHOD) == Reason.UNAVAILABLE.name


async def test_an_authority_is_replaced_in_three_rounds_of_which_none_cuts_services_off(
    old: Path, new: Path, tmp_path: Path
) -> None:
    rounds = ((old, (old,)), (old, (old, new)), (new, (old, new)), (new, (new,)))
    stages = [hold(tmp_path / f"stage{number}", own, *trusted) for number, (own, trusted) in enumerate(rounds)]
    leaked = identity(hold(tmp_path / "leaked", old, old, new), "gateway")
    for before, after in itertools.pairwise(stages):
        for ahead, behind in ((before, after), (after, before)):
            async with scheduler(identity(ahead, "scheduler")) as served:
                assert await calling(served.address, identity(behind, "gateway")) == ANSWERED
    for stage, expected in zip(stages, (ANSWERED, ANSWERED, ANSWERED, Reason.UNAVAILABLE.name), strict=True):
        async with scheduler(identity(stage, "scheduler")) as served:
            assert await calling(served.address, leaked) == expected


async def test_a_user_of_etcd_is_replaced_while_registries_stay_open(tmp_path: Path) -> None:
    a, b = Member("worker", "a", "a.example:1", {}), Member("worker", "b", "b.example:1", {})
    with etcd(tmp_path) as store:
        await stores.protect_etcd(store.address, "root-word")

        def add(user: str) -> None:
            for command in (f"user add {user}:{user}-word", f"user grant-role {user} root"):
                store.control("--user", "root:root-word", *command.split())

        def section(user: str) -> RegistrySection:
            password = SecretStr(f"{user}-word")
            return RegistrySection(endpoints=(store.address,), lease_seconds=2, user=user, password=password)

        add("old")
        async with asyncio.timeout(30), connect(section("old"), CLUSTER) as before, before.announce(a):
            add("next")
            async with connect(section("next"), CLUSTER) as after, after.announce(b):
                assert (await anext(before.watch("worker"))).keys() == {"a", "b"}
                assert (await anext(after.watch("worker"))).keys() == {"a", "b"}
                store.control("--user", "root:root-word", "user", "delete", "old")
                with pytest.raises(EtcdError, match="authentication failed"):
                    await before.leader("scheduler")
                assert await after.leader("scheduler") is None


async def test_a_password_of_redis_is_replaced_while_stores_stay_open(certificates: Path) -> None:
    with locked_redis(certificates, "old-word") as port:

        def section(word: str) -> StateSection:
            return StateSection(
                url=f"rediss://localhost:{port}/0",
                password=SecretStr(word),
                ca_file=f"{certificates}/ca.pem",
                cert_file=f"{certificates}/scheduler.pem",
                key_file=f"{certificates}/scheduler.key",
            )

        async def change(word: str, rule: str) -> None:
            redis: Any = Redis  # its methods are of unknown types
            async with redis.from_url(section(word).url, **credentials.of(section(word))) as client:
                await client.execute_command("ACL", "SETUSER", "default", rule)

        async with asyncio.timeout(30), state.connect(section("old-word"), "c") as before:
            await before.put("k", b"v")
            await change("old-word", ">next-word")
            async with state.connect(section("next-word"), "c") as after:
                await after.put("k", b"w")
                assert await before.get("k") == b"w"
                await change("next-word", "<old-word")
                assert await after.get("k") == b"w"
            async with state.connect(section("old-word"), "c") as late:
                with pytest.raises(state.StoreUnavailable):
                    await late.get("k")
