"""Of two nodes that would write the stores' data one does; the other waits, and says for whom."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local.children import children
from services.local.stores_lock import held

SECONDS = 20.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stores.lock"


def holder(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


async def test_the_second_node_waits_for_the_first_and_says_so(file: Path, caplog: pytest.LogCaptureFixture):
    async def second() -> str:
        async with held(file, "node-b"):
            return holder(file)

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        async with held(file, "node-a, process 7"):
            waiting = tasks.create_task(second())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.2)
            assert "wait for node-a, process 7" in caplog.text
            assert holder(file) == "node-a, process 7"
        assert await waiting == "node-b"


async def test_only_its_owner_reads_who_has_it(file: Path):
    async with held(file, "node-a") as descriptor:
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600


async def test_a_store_that_outlives_its_launcher_keeps_the_lock(file: Path):
    async with asyncio.timeout(SECONDS), children(SECONDS) as group:
        async with held(file, "node-a") as descriptor:
            group.start("redis", ("sleep", "60"), inherited=(descriptor,))
            await asyncio.sleep(0)
            assert group.pids
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), held(file, "node-b"):
                pass
        await group.retire("redis", SECONDS)
        async with held(file, "node-b"):
            assert holder(file) == "node-b"


async def test_a_holder_that_is_gone_for_good_is_forgotten_with_the_file(file: Path):
    async with asyncio.timeout(SECONDS), held(file, "node-a"):
        os.unlink(file)
        async with held(file, "node-b"):
            assert holder(file) == "node-b"


def no_locks(number: int, then: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """An flock that fails so often, as NFS's does while its server starts."""
    left = [errno.ENOLCK] * number

    def lock(descriptor: int, operation: int) -> None:
        if left:
            raise OSError(left.pop(), "No locks available")
        then(descriptor, operation)

    return lock


async def test_locks_that_are_not_there_yet_are_waited_for(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fcntl, "flock", no_locks(1, fcntl.flock))
    async with asyncio.timeout(SECONDS), held(file, "node-a"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), held(file, "node-b"):
                pass
    assert "cannot be locked" not in caplog.text


async def test_locks_that_never_come_are_given_up(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fcntl, "flock", no_locks(1, fcntl.flock))
    async with asyncio.timeout(SECONDS), held(file, "node-a", grace_seconds=0.0):
        assert "cannot be locked" in caplog.text


async def test_a_file_system_without_locks_is_no_reason_not_to_start(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    async with held(file, "node-a"):
        assert "cannot be locked: nothing but the batch system keeps two nodes apart" in caplog.text
