"""Pools as processes that are killed: what the next life finds, and what their workers see."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from legato.v1 import kvpool_pb2
from services.common import config
from services.common.registry.embedded import serve_embedded
from services.kvpool import arena
from tests.kvpool.pools import MIB, SECONDS, chain, content, worker

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def endpoint() -> AsyncGenerator[str]:
    async with serve_embedded() as served:
        yield served


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Generator[str]:
    """A name; what its killed pools leave is removed."""
    name = f"{request.function.__name__[:40]}_{os.getpid()}"
    yield name
    for path in files(name):
        path.unlink()


def files(cluster: str) -> list[Path]:
    """Shared memory of the cluster's pools."""
    return list(arena.SHARED_MEMORY.glob(f"legato-{cluster}-*"))


@contextmanager
def process(endpoint: str, folder: Path, cluster: str) -> Generator[subprocess.Popen[bytes]]:
    """A pool with a disk; killed at the end."""
    overrides: dict[str, object] = {
        "cluster.name": cluster,
        "registry.endpoints": [endpoint],
        "kvpool.name": "p",
        "kvpool.directory": str(folder / "pool"),
        "kvpool.dram_bytes": 4 * MIB,
        "kvpool.ssd_directory": str(folder / "ssd"),
        "kvpool.ssd_bytes": 8 * MIB,
        "kvpool.retention": "lru",
    }
    command = (sys.executable, "-m", "services.kvpool")
    environment = config.environment(overrides)
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log) as started,
    ):
        try:
            yield started
        finally:
            started.kill()


def spoil(data: Path, block_hash: bytes) -> None:
    """Change a byte of the block on disk."""
    held = bytearray(data.read_bytes())
    held[held.index(content(block_hash, 0).tobytes()) + 7] ^= 1
    data.write_bytes(held)


def kill(pool: subprocess.Popen[bytes]) -> None:
    pool.send_signal(signal.SIGKILL)
    pool.wait()


async def test_a_killed_pool_comes_back_with_its_disk_and_frees_its_memory(
    endpoint: str, tmp_path: Path, cluster: str
) -> None:
    socket = f"unix:{tmp_path}/pool/pool.sock"
    names = [f"c{number}" for number in range(5)]
    with process(endpoint, tmp_path, cluster) as pool:
        async with worker(socket) as attached:
            for number, name in enumerate(names):
                await attached.call(chain(name, 4), name)
                await attached.demote(4 * (number + 1), name)
            await attached.begin(chain("half", 4))  # a save that never ends
            kill(pool)
            old = attached
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await attached.acquire(chain("c0", 4))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    (left,) = files(cluster)
    with process(endpoint, tmp_path, cluster) as pool:
        async with worker(socket) as attached:
            assert left not in files(cluster)
            assert attached.attached.arena_id != old.attached.arena_id
            assert not old.arena.any()  # a worker still maps it; its pages are free
            for name in names:
                assert len((await attached.call(chain(name, 4), name)).offsets) == 4
            assert (await attached.status()).num_corrupt_blocks == 0
        pool.send_signal(signal.SIGTERM)
        assert pool.wait(SECONDS) == 0
    assert not files(cluster)


async def test_a_pool_killed_while_it_writes_serves_nothing_wrong(endpoint: str, tmp_path: Path, cluster: str) -> None:
    socket = f"unix:{tmp_path}/pool/pool.sock"
    for life in range(2):
        with process(endpoint, tmp_path, cluster) as pool:
            async with worker(socket) as attached:
                for number in range(7):
                    await attached.call(chain(f"c{number}", 4), f"c{number}")  # checks all that it reads
                if life == 0:
                    demotions = [kvpool_pb2.DemoteRequest(program_id=f"c{number}") for number in range(7)]
                    await asyncio.gather(*(attached.stub.Demote(each, timeout=SECONDS) for each in demotions))
                assert (await attached.status()).num_corrupt_blocks == 0
            kill(pool)


async def test_blocks_spoilt_on_disk_are_not_served(endpoint: str, tmp_path: Path, cluster: str) -> None:
    socket = f"unix:{tmp_path}/pool/pool.sock"
    hashes = chain("a", 6)
    with process(endpoint, tmp_path, cluster) as pool:
        async with worker(socket) as attached:
            await attached.call(hashes)
            await attached.demote(6)
        kill(pool)
    spoil(tmp_path / "ssd" / "data", hashes[2])
    with process(endpoint, tmp_path, cluster):
        async with worker(socket) as attached:
            acquired = await attached.acquire(hashes)
            assert len(acquired.offsets) == 2
            assert attached.right(hashes, acquired)
            assert (await attached.status()).num_corrupt_blocks == 1
