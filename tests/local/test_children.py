"""Children that are told to go more than once go once, and their end is nobody else's to take."""

import asyncio
import os
import signal
from pathlib import Path

from services.local.children import children

SECONDS = 20.0


async def test_a_child_that_goes_already_is_not_stopped_again() -> None:
    async with asyncio.timeout(SECONDS), children(SECONDS) as group:
        group.start("one", ("sleep", "60"))
        await group.retire("one", SECONDS)  # before it has begun, so there is no process
        await group.retire("one", SECONDS)
        assert not group.pids


async def test_a_child_whose_status_somebody_else_took_is_gone_all_the_same() -> None:
    async with asyncio.timeout(SECONDS), children(SECONDS) as group:
        group.start("one", ("sleep", "60"))
        await asyncio.sleep(0)
        pid = group.pids["one"]
        group.signal("one", signal.SIGSTOP)
        retiring = asyncio.create_task(group.retire("one", SECONDS))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 (it has ended)
        await retiring
        assert not group.pids


async def test_a_child_whose_status_somebody_else_took_is_started_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with asyncio.timeout(SECONDS), children(SECONDS) as group:
        group.start("one", ("sh", "-c", f"echo $$ >{fifo}; exec sleep 60"))
        first = int(await asyncio.to_thread(fifo.read_text))
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)  # noqa: ASYNC222 (it has ended)
        assert int(await asyncio.to_thread(fifo.read_text)) == group.pids["one"] != first
