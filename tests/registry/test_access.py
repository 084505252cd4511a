"""Users, roles and certificates of a real etcd, and settings that cannot be used."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from pydantic import SecretStr

from legato import certs
from services.common.config import RegistrySection, SettingsError
from services.common.registry import EtcdError, Member, Unavailable, connect
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.watch import watch
from tests.registry.conftest import LEASE_SECONDS
from tests.servers.etcd import Etcd, etcd

PATIENCE_SECONDS = 20.0
A = Member("worker", "a", "a.example:1", {})


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Etcd]:
    """etcd with users: `legato` may use the cluster `mine` only."""
    with etcd(tmp_path) as server:
        for command in (
            "user add root:admin",
            "user grant-role root root",
            "user add legato:secret",
            "role add mine",
            "role grant-permission mine --prefix=true readwrite /legato/mine/",
            "user grant-role legato mine",
            "auth enable",
        ):
            server.control(*command.split())
        yield server


def section(server: Etcd, user: str = "", password: str = "") -> RegistrySection:
    return RegistrySection(
        endpoints=(server.address,), lease_seconds=LEASE_SECONDS, user=user, password=SecretStr(password)
    )


def void_tokens(server: Etcd) -> None:
    """End the tokens given out so far, and every stream that was opened with one."""
    for command in ("auth disable", "auth enable"):
        server.control("--user", "root:admin", *command.split())
    server.kill()
    server.start()


async def test_a_user_reaches_its_own_keys_also_after_tokens_are_void(locked: Etcd):
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        connect(section(locked, "legato", "secret"), "mine") as registry,
        registry.announce(A),
        aclosing(registry.watch("worker")) as snapshots,
        registry.lead("scheduler", "a"),
    ):
        assert (await anext(snapshots)).keys() == {"a"}
        void_tokens(locked)
        async with registry.announce(Member("worker", "b", "", {})):
            assert (await anext(snapshots)).keys() == {"a", "b"}
        leader = await registry.leader("scheduler")
        assert leader is not None
        assert leader.id == "a"


async def test_a_watch_renews_a_void_token_by_itself(locked: Etcd):
    quiet, busy = (Connection([locked.address], user="legato", password="secret") for _ in range(2))
    before = await Client(busy).put("/legato/mine/k", b"0")
    changes = watch(quiet, "/legato/mine/k", after=before, silence_seconds=1.0)
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(changes) as batches:
        await Client(busy).put("/legato/mine/k", b"1")
        assert [change.value for change in (await anext(batches)).changes] == [b"1"]
        void_tokens(locked)
        await Client(busy).put("/legato/mine/k", b"2")
        assert (await anext(batches)).resumed
        assert [change.value for change in (await anext(batches)).changes] == [b"2"]
    await quiet.close()
    await busy.close()


async def test_without_permission_everything_fails_at_once(locked: Etcd):
    for user, password, cluster, message in (
        ("", "", "mine", "user name is empty"),
        ("legato", "wrong", "mine", "authentication failed"),
        ("legato", "secret", "other", "permission denied"),
    ):
        async with asyncio.timeout(PATIENCE_SECONDS), connect(section(locked, user, password), cluster) as registry:
            for refused in (
                registry.leader("scheduler"),
                registry.announce(A).__aenter__(),
                registry.lead("scheduler", "a").__aenter__(),
                anext(registry.watch("worker")),
            ):
                with pytest.raises(EtcdError, match=message):
                    await refused


async def test_certificates_are_checked_at_both_ends(tmp_path: Path):
    own, stranger = _issued(tmp_path / "own"), _issued(tmp_path / "stranger")
    flags = ("--client-cert-auth", "--cert-file", f"{own}/etcd.pem", "--key-file", f"{own}/etcd.key")

    def using(believed: Path, shown: Path | None) -> RegistrySection:
        return RegistrySection(
            endpoints=(server.address,),
            lease_seconds=LEASE_SECONDS,
            ca_file=f"{believed}/ca.pem",
            cert_file=f"{shown}/scheduler.pem" if shown else "",
            key_file=f"{shown}/scheduler.key" if shown else "",
        )

    async def ask(settings: RegistrySection) -> None:
        async with connect(settings, "c") as registry:
            assert await registry.leader("scheduler") is None

    with etcd(tmp_path, tls_flags=(*flags, "--trusted-ca-file", f"{own}/ca.pem"), host="localhost") as server:
        good = using(own, own)
        async with asyncio.timeout(PATIENCE_SECONDS), connect(good, "c") as registry, registry.announce(A):
            assert (await anext(registry.watch("worker"))).keys() == {"a"}
        bad = using(stranger, own), using(own, stranger), using(own, None)
        outcomes = await asyncio.gather(*(ask(settings) for settings in bad), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RegistrySection(), "at least one etcd server"),
        (RegistrySection(endpoints=("http://etcd:2379",)), "expected host:port"),
        (RegistrySection(endpoints=("etcd",)), "expected host:port"),
        (RegistrySection(endpoints=("etcd:1",), ca_file="/missing.pem"), "/missing.pem: No such file"),
        (RegistrySection(endpoints=("etcd:1",), ca_file="ca.pem", cert_file="cert.pem"), "both or neither"),
        (RegistrySection(endpoints=("etcd:1",), cert_file="cert.pem", key_file="key.pem"), "ca_file: needed"),
    ],
)
async def test_settings_that_cannot_be_used_say_why(settings: RegistrySection, message: str):
    with pytest.raises(SettingsError, match=message):
        await connect(settings, "c").__aenter__()


def _issued(directory: Path) -> Path:
    certs.issue(directory, "c", ("localhost",), 1)
    return directory
