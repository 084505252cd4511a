"""Every service a process of its own, each link behind certificates, passwords and keys; and no secret to be seen."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

import legato
from services.common import registry, tls
from services.common.config import RegistrySection
from services.common.registry import Registry
from services.worker import tiny_model
from tests.servers.etcd import Etcd, etcd
from tests.trust.conftest import CLUSTER, identity, section
from tests.trust.redis import locked_redis

SERVICES = ("scheduler", "workflow", "kvpool", "worker", "gateway")
API_KEY, REDIS, ETCD, SALT = "api-key-5f1d", "redis-word-77ac", "etcd-word-c09e", "salt-word-b3d2"
DECOY = "decoy-word-1e4b"
PATIENCE_SECONDS = 140  # five processes start beside whatever else the machine does


@dataclass(frozen=True)
class Locked:
    """A cluster in which everything is locked."""

    folder: Path
    certificates: Path
    settings: Path
    etcd: Etcd

    @property
    def logs(self) -> dict[str, str]:
        return {path.name: path.read_text(errors="replace") for path in self.folder.glob("*.log")}

    def registry(self) -> RegistrySection:
        operator = self.certificates / "operator"
        return RegistrySection(
            endpoints=(self.etcd.address,),
            user="legato",
            password=SecretStr(ETCD),
            ca_file=f"{self.certificates}/ca.pem",
            cert_file=f"{operator}.pem",
            key_file=f"{operator}.key",
        )


@pytest.fixture(scope="module")
def locked(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    tiny_model.make(folder / "model")
    keys = folder / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{API_KEY}\n")
    with ExitStack() as stack:
        server = stack.enter_context(_locked_etcd(folder, certificates))
        redis = stack.enter_context(locked_redis(certificates, REDIS))
        cluster = Locked(folder, certificates, folder / "legato.toml", server)
        cluster.settings.touch(mode=0o600)
        cluster.settings.write_text(_settings(cluster, redis, keys))
        for service in SERVICES:
            stack.enter_context(_process(service, cluster))
        yield cluster


@contextmanager
def _locked_etcd(folder: Path, certificates: Path) -> Generator[Etcd]:
    own = f"{certificates}/etcd"
    flags = ("--cert-file", f"{own}.pem", "--key-file", f"{own}.key", "--trusted-ca-file", f"{certificates}/ca.pem")
    with etcd(folder, tls_flags=("--client-cert-auth", *flags), host="localhost") as server:
        shown = ("--cacert", f"{certificates}/ca.pem", "--cert", f"{own}.pem", "--key", f"{own}.key")
        for command in (
            f"user add root:{ETCD}",
            "user grant-role root root",
            f"user add legato:{ETCD}",
            "role add legato",
            f"role grant-permission legato --prefix=true readwrite /legato/{CLUSTER}/",
            "user grant-role legato legato",
            "auth enable",
        ):
            server.control(*shown, *command.split())
        yield server


def _settings(cluster: Locked, redis: int, keys: Path) -> str:
    given, ca_file = section(cluster.certificates), f"{cluster.certificates}/ca.pem"
    door = cluster.certificates / "gateway"
    sections: dict[str, dict[str, object]] = {
        "cluster": {"name": CLUSTER, "drain_seconds": 0},
        "tls": given.model_dump(),
        "registry": {
            "endpoints": [cluster.etcd.address],
            "user": "legato",
            "password": ETCD,
            "ca_file": ca_file,
        },
        "state": {"url": f"rediss://localhost:{redis}/0", "password": REDIS, "ca_file": ca_file},
        "telemetry": {"log_level": "debug"},
        "gateway": {
            "http_port": 0,
            "port": 0,
            "salt_secret": SALT,
            "api_keys_file": str(keys),
            "cert_file": f"{door}.pem",
            "key_file": f"{door}.key",
        },
        "worker": {"engine": "simulated", "model_path": str(cluster.folder / "model"), "model": "tiny"},
        "simulated": {"speed": 100.0, "kv_tokens": 4096},
        "kvpool": {"directory": str(cluster.folder / "kv"), "name": "here", "dram_bytes": 1 << 24},
    }
    lines: list[str] = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines)


@contextmanager
def _process(service: str, cluster: Locked) -> Generator[None]:
    environment = {**os.environ, "LEGATO_CONFIG": str(cluster.settings)}
    with (cluster.folder / f"{service}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", f"services.{service}"], env=environment, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _first(members: Registry, kind: str) -> registry.Member:
    async for found in members.watch(kind):
        for member in found.values():
            return member
    raise AssertionError("a watch never ends")


async def _gateway(cluster: Locked) -> registry.Member:
    async with registry.connect(cluster.registry(), CLUSTER) as members:
        return (await asyncio.gather(*(_first(members, kind) for kind in reversed(SERVICES))))[0]


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
async def test_every_link_works_behind_its_lock(locked: Locked) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        gateway = await _gateway(locked)
        ca_file = f"{locked.certificates}/ca.pem"
        async with legato.Client(gateway.address, max_retries=100, api_key=API_KEY, ca_file=ca_file) as client:
            async with client.program("p1") as program:
                reply = await program.agent("a").chat("hello", max_tokens=5)
            assert reply.usage.completion_tokens == 5
            [worker] = await client.workers()  # gateway to scheduler
            await client.set_worker_role(worker.worker_id, "decode")  # scheduler to worker
            assert [pool.pool_id for pool in await client.pools()] == ["here"]  # scheduler to pool
            async with aclosing(client.read_log("p1", follow=True)) as entries:  # gateway to workflow, and Redis
                await anext(entries)
            assert (await client.explain("p1")).program_id == "p1"
        async with legato.Client(gateway.address, max_retries=0, ca_file=ca_file) as stranger:
            with pytest.raises(legato.Unauthenticated):
                await stranger.models()
        trusting = tls.contexts(identity(locked.certificates, "operator"), server=False).now()
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {API_KEY}"}) as session,
            session.get(f"https://{gateway.metadata['http']}/v1/models", ssl=trusting) as response,
        ):
            assert [model["id"] for model in (await response.json())["data"]] == ["tiny"]


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
async def test_no_secret_is_to_be_seen(locked: Locked) -> None:
    """In no process's arguments, and in no log, at the level at which most is told."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await _gateway(locked)  # all have connected
    arguments = await asyncio.to_thread(_arguments)
    assert DECOY in arguments
    keys = [path.read_text().splitlines()[1] for path in locked.certificates.glob("*.key")]
    logs = locked.logs
    assert logs.keys() >= {f"{service}.log" for service in SERVICES}
    assert all("running" in logs[f"{service}.log"] for service in SERVICES)
    for secret in (API_KEY, REDIS, ETCD, SALT, *keys):
        assert secret not in arguments
        assert [name for name, text in logs.items() if secret in text] == []


def _arguments() -> str:
    """Of all processes, one among them that shows the decoy."""
    found: list[str] = []
    with subprocess.Popen([sys.executable, "-c", "input()", DECOY], stdin=subprocess.PIPE) as decoy:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found.append(path.read_bytes().decode(errors="replace").replace("\0", " "))
            except OSError:  # it has ended meanwhile
                continue
        decoy.kill()
    return "\n".join(found)
