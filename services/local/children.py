"""Child processes: started, restarted when they die, stopped together.

Children are started with `subprocess.Popen`, which closes inherited descriptors (uvloop's own spawn does not), and
watched through a pidfd. A child that dies is started again, at most once a second; one that keeps dying young ends us,
for then something is wrong that a restart does not mend. Children get SIGTERM when we are killed.
"""

import asyncio
import logging
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    """The processes of one run. `log_dir`: where each child's output goes; None: to ours. `own_groups`: each child
    leads a process group, so that what is sent to ours reaches us alone."""

    def __init__(self, tasks: asyncio.TaskGroup, log_dir: Path | None = None, own_groups: bool = False) -> None:
        self._tasks = tasks
        self._log_dir = log_dir
        self._process_group = 0 if own_groups else None
        if log_dir is not None:
            log_dir.mkdir(parents=True, exist_ok=True)
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        """The live ones."""

    @property
    def pids(self) -> dict[str, int]:
        """Name of each live child to its pid."""
        return {name: process.pid for name, process in self._processes.items()}

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """Run `command` until `stop`, again and again if it ends before. `inherited`: descriptors that it gets."""
        child = _Child(name, command, environment, inherited)
        self._keepers[name] = self._tasks.create_task(self._keep(child), name=f"keep {name}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the child `name`, if it runs."""
        if (process := self._processes.get(name)) is not None:
            process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all that run; they are not started again only once `stop` was called."""
        for name in self._processes:
            self.signal(name, signal.SIGKILL)

    async def stop(self, timeout_seconds: float) -> None:
        """Stop the children, last started first: SIGTERM, then SIGKILL after the timeout."""
        for name in reversed(list(self._keepers)):
            await self.retire(name, timeout_seconds)

    async def retire(self, name: str, timeout_seconds: float) -> None:
        """Stop one child for good, likewise. Nothing for one that goes already."""
        if (keeper := self._keepers.pop(name, None)) is None:
            return
        keeper.cancel()
        await asyncio.wait((keeper,))
        if (process := self._processes.get(name)) is not None:
            await _end(name, process, timeout_seconds)
            del self._processes[name]

    async def _keep(self, child: "_Child") -> None:
        young_deaths = 0
        while True:
            began = asyncio.get_running_loop().time()
            process = self._processes[child.name] = self._spawn(child)
            await exited(process.pid)
            del self._processes[child.name]
            young = asyncio.get_running_loop().time() - began < YOUNG_SECONDS
            young_deaths = young_deaths + 1 if young else 0
            status = process.wait()
            if young_deaths >= MAX_YOUNG_DEATHS:
                raise KeepsDying(f"{child.name} ended {young_deaths} times right after its start (status {status})")
            log.error("%s (pid %d) ended with status %s; starting it again", child.name, process.pid, status)
            await asyncio.sleep(RESTART_SECONDS)

    def _spawn(self, child: "_Child") -> subprocess.Popen[bytes]:
        if self._log_dir is None:
            return self._popen(child, None)
        with (self._log_dir / f"{child.name}.log").open("ab") as output:
            return self._popen(child, output)

    def _popen(self, child: "_Child", output: BinaryIO | None) -> subprocess.Popen[bytes]:
        with_parent = _WITH_PARENT if shutil.which(_WITH_PARENT[0]) is not None else ()
        return subprocess.Popen(
            (*with_parent, *child.command),
            env=child.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            pass_fds=child.inherited,
            process_group=self._process_group,
        )


@dataclass(frozen=True, slots=True)
class _Child:
    """How one is started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] | None
    inherited: Sequence[int]


async def _end(name: str, process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(timeout_seconds):
            await exited(process.pid)
    except TimeoutError:
        log.warning("%s (pid %d) did not stop in %.0f s and is killed", name, process.pid, timeout_seconds)
        process.kill()
        await exited(process.pid)
    process.wait()  # it has ended: this only takes its status, where nobody else did


@asynccontextmanager
async def children(
    stop_seconds: float, log_dir: Path | None = None, own_groups: bool = False
) -> AsyncGenerator[Children]:
    """A group of children that live as long as the context."""
    async with asyncio.TaskGroup() as tasks:
        group = Children(tasks, log_dir, own_groups)
        try:
            yield group
        finally:
            await group.stop(stop_seconds)
