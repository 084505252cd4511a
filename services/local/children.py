"""Child processes: started, restarted when they die, stopped together.

Children are started with `subprocess.Popen`, which closes inherited descriptors (uvloop's own spawn does not), and
watched through a pidfd. A child that dies is started again, at most once a second; one that keeps dying young ends us,
for then something is wrong that a restart does not mend. Children get SIGTERM when we are killed.
"""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from services.common.process import exited

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
YOUNG_SECONDS = 10.0
MAX_YOUNG_DEATHS = 5
STOP_MARGIN_SECONDS = 10.0
"""Beyond its drain, what a service may take to stop."""
_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")


class KeepsDying(Exception):
    """A child died young too often; the message names it."""


class Children:
    """The processes of one run. `log_dir`: where each child's output goes; None: to ours."""

    def __init__(self, tasks: asyncio.TaskGroup, log_dir: Path | None = None) -> None:
        self._tasks = tasks
        self._log_dir = log_dir
        if log_dir is not None:
            log_dir.mkdir(parents=True, exist_ok=True)
        self._keepers: list[tuple[str, asyncio.Task[None]]] = []
        self.pids: dict[str, int] = {}
        """Name of each live child to its pid."""

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Run `command` until `stop`, again and again if it ends before."""
        keeper = self._tasks.create_task(self._keep(name, command, environment), name=f"keep {name}")
        self._keepers.append((name, keeper))

    async def stop(self, timeout_seconds: float) -> None:
        """Stop the children, last started first: SIGTERM, then SIGKILL after the timeout."""
        for name, keeper in reversed(self._keepers):
            keeper.cancel()
            await asyncio.wait((keeper,))
            if (pid := self.pids.pop(name, None)) is not None:
                await _end(name, pid, timeout_seconds)

    async def _keep(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        young_deaths = 0
        while True:
            began = asyncio.get_running_loop().time()
            process = self._spawn(name, command, environment)
            self.pids[name] = process.pid
            await exited(process.pid)
            del self.pids[name]
            young = asyncio.get_running_loop().time() - began < YOUNG_SECONDS
            young_deaths = young_deaths + 1 if young else 0
            if young_deaths >= MAX_YOUNG_DEATHS:
                raise KeepsDying(f"{name} ended {young_deaths} times right after its start (status {process.wait()})")
            log.error("%s (pid %d) ended with status %s; starting it again", name, process.pid, process.wait())
            await asyncio.sleep(RESTART_SECONDS)

    def _spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        if shutil.which(_WITH_PARENT[0]) is not None:
            command = (*_WITH_PARENT, *command)
        if self._log_dir is None:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        with (self._log_dir / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )


async def _end(name: str, pid: int, timeout_seconds: float) -> None:
    os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(timeout_seconds):
            await exited(pid)
    except TimeoutError:
        log.warning("%s (pid %d) did not stop in %.0f s and is killed", name, pid, timeout_seconds)
        os.kill(pid, signal.SIGKILL)
        await exited(pid)
    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 (it has ended: this only takes its status)


@asynccontextmanager
async def children(stop_seconds: float, log_dir: Path | None = None) -> AsyncGenerator[Children]:
    """A group of children that live as long as the context."""
    async with asyncio.TaskGroup() as tasks:
        group = Children(tasks, log_dir)
        try:
            yield group
        finally:
            await group.stop(stop_seconds)
