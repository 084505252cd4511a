"""One node's share of a cluster: who runs what, where the others are, and what is kept from other users."""

import asyncio
import json
import stat
from pathlib import Path

import pytest

from services.common import registry
from services.common.config import RegistrySection
from services.common.registry import EtcdError
from services.local import node, stores
from services.local.relay import relaying
from services.local.shared_directory import SharedDirectory
from tests.servers.etcd import Etcd

SECONDS = 20.0


def test_services_start_in_their_order():
    assert node.names("gateway,redis,scheduler,etcd") == ("etcd", "redis", "scheduler", "gateway")


@pytest.mark.parametrize(("text", "said"), [("gatway", "unknown: gatway"), ("etcd,gateway", "on the same node")])
def test_services_that_cannot_run_are_refused(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        node.names(text)


@pytest.mark.parametrize(
    ("visible", "gpus_per_engine", "shares"),
    [("", 1, []), ("0,1,2,3", 1, ["0", "1", "2", "3"]), ("0,1,2,3", 2, ["0,1", "2,3"]), ("4,5,6", 2, ["4,5"])],
)
def test_each_engine_sees_its_own_gpus(visible: str, gpus_per_engine: int, shares: list[str]):
    assert node.gpu_shares(visible, gpus_per_engine) == shares


def test_what_nodes_tell_each_other_is_the_owners_alone(tmp_path: Path):
    shared = SharedDirectory(tmp_path)
    assert shared.control("etcd") is None
    assert shared.secret("etcd_password") == ""
    shared.write_control(etcd="a:1", redis="a:2")
    shared.write_control(etcd="b:1", redis="b:2")
    shared.write_connection({"addresses": ["b:3"]})
    assert (shared.control("etcd"), shared.control("redis")) == ("b:1", "b:2")
    assert json.loads(shared.connection_file.read_text(encoding="utf-8")) == {"addresses": ["b:3"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["connection.json", "control.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_the_password_of_redis_is_no_argument(tmp_path: Path):
    command = stores.redis(tmp_path / "data", "127.0.0.1", 1, tmp_path, password="hidden")
    assert "hidden" not in " ".join(command)
    assert stat.S_IMODE(Path(command[-1]).stat().st_mode) == 0o600


async def test_a_relay_leads_to_where_the_service_is_now():
    async def serve(name: bytes) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name + await reader.readexactly(1))
            writer.close()

        return await asyncio.start_server(answer, "127.0.0.1", 0)

    async def asked(address: str) -> bytes:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"!")
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    now: str | None = None
    async with asyncio.timeout(SECONDS), relaying(lambda: now) as address, await serve(b"one") as one:
        assert await asked(address) == b""
        now = f"127.0.0.1:{one.sockets[0].getsockname()[1]}"
        assert await asked(address) == b"one!"
        async with await serve(b"two") as two:
            now = f"127.0.0.1:{two.sockets[0].getsockname()[1]}"
            assert await asked(address) == b"two!"
        assert await asked(address) == b""


async def test_etcd_asks_for_its_password_in_this_life_and_the_next(tmp_path: Path):
    etcd = Etcd("legato", tmp_path)
    for _ in range(2):
        etcd.start()
        try:
            await stores.protect_etcd(etcd.address, "hidden")
            await _count_workers(RegistrySection(endpoints=(etcd.address,), user="root", password="hidden"))  # pyright: ignore[reportArgumentType] (pydantic makes it secret)
            with pytest.raises(EtcdError):
                await _count_workers(RegistrySection(endpoints=(etcd.address,)))
        finally:
            etcd.kill()


async def _count_workers(section: RegistrySection) -> int:
    async with asyncio.timeout(SECONDS), registry.connect(section, "legato") as members:
        async for workers in members.watch("worker"):
            return len(workers)
    raise AssertionError("watch never ends")
