"""Transfers: the core's work, done beside the event loop: the disk tier, and pulls from other pools.

Each job ends with the event that the core waits for, whatever happens to it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, assert_never

from services.common.config import KVPoolSection, SettingsError
from services.kvpool import metrics, ssd, transport
from services.kvpool.actions import ForgetDisk, Pull, ReadDisk, ResolvePeer, WriteDisk
from services.kvpool.arena import SharedArena
from services.kvpool.events import DiskEntry, DiskRead, DiskUnusable, DiskWritten, Event, PeerResolved, Pulled
from services.kvpool.pool import Work
from services.kvpool.speeds import Speeds
from services.kvpool.ssd import DiskTier
from services.kvpool.transport import Peers

_log = logging.getLogger(__name__)


class Transfers:
    """`tier`: None where there is no disk; the core has no room on one then."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        tier: DiskTier | None,
        peers: Peers,
        speeds: Speeds,
        feed: Callable[[Event], None],
    ) -> None:
        self._tasks = tasks
        self._tier = tier
        self._peers = peers
        self._speeds = speeds
        self._feed = feed
        self._running: set[asyncio.Task[None]] = set()

    @property
    def entries(self) -> Sequence[DiskEntry]:
        """What the disk holds from an earlier life; told once."""
        return self._tier.restored() if self._tier is not None else ()

    def begin(self, work: Work) -> None:
        """Start a job."""
        match work:
            case ForgetDisk():
                if self._tier is not None:
                    self._tier.forget(work)
            case WriteDisk():
                self._run(self._write(work), DiskWritten(work.job, [False] * len(work.blocks)))
            case ReadDisk():
                self._run(self._read(work), DiskRead(work.job, ()))
            case ResolvePeer():
                self._run(self._resolve(work), PeerResolved(work.job, ()))
            case Pull():
                self._run(self._pull(work), Pulled(work.job, 0, ()))
            case _:
                assert_never(work)

    async def idle(self) -> None:
        """Wait until no job runs."""
        while self._running:
            await asyncio.wait(self._running)

    def cancel(self) -> None:
        """Let no job go on."""
        for task in self._running:
            task.cancel()

    def _run(self, job: Coroutine[Any, Any, None], failed: Event) -> None:
        task = self._tasks.create_task(self._guarded(job, failed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, job: Coroutine[Any, Any, None], failed: Event) -> None:
        """A bug in a transfer costs its blocks, not the pool and all that it holds."""
        try:
            await job
        except Exception:
            _log.exception("%s failed", type(failed).__name__)
            metrics.FAILED_TRANSFERS.labels(type(failed).__name__).inc()
            self._feed(failed)

    async def _write(self, job: WriteDisk) -> None:
        assert self._tier is not None, "there is no disk"
        written = await self._tier.write(job)
        metrics.DISK_FAILURES.labels("not_written").inc(len(written) - sum(written))
        self._feed(DiskWritten(job.job, written))

    async def _read(self, job: ReadDisk) -> None:
        assert self._tier is not None, "there is no disk"
        loop = asyncio.get_running_loop()
        began, num_blocks = loop.time(), 0

        def came(ok: list[bool], last: bool) -> None:
            nonlocal num_blocks
            num_blocks += sum(ok)
            metrics.DISK_FAILURES.labels("not_read").inc(len(ok) - sum(ok))
            self._feed(DiskRead(job.job, ok, last))

        await self._tier.read(job, came)
        self._speeds.learn("ssd", num_blocks * job.num_shards * job.shard_bytes, loop.time() - began)

    async def _resolve(self, job: ResolvePeer) -> None:
        links = await self._peers.resolve(
            job.replica.data_address, job.namespace_id, job.tip, job.num_blocks, job.deadline_seconds
        )
        self._feed(PeerResolved(job.job, [link.hash for link in links[job.first_block :]]))

    async def _pull(self, job: Pull) -> None:
        def came(num_blocks: int, checksums: Sequence[int]) -> None:
            self._feed(Pulled(job.job, num_blocks, checksums, done=False))

        pulled = await self._peers.pull(
            *(job.replica.data_address, job.namespace_id, job.prefix, job.offsets, job.num_shards, job.shard_bytes),
            timeout_seconds=job.deadline_seconds,
            came=came,
        )
        metrics.PULLS.labels(pulled.stop).inc()
        self._speeds.learn("peer", pulled.num_blocks * job.num_shards * job.shard_bytes, pulled.seconds)
        self._feed(Pulled(job.job, 0, ()))


@contextlib.asynccontextmanager
async def transferring(
    section: KVPoolSection, arena: SharedArena, speeds: Speeds, feed: Callable[[Event], None]
) -> AsyncGenerator[Transfers]:
    """Open the disk tier and the way to peers. When it is left nothing moves any more. Raises SettingsError."""

    def failed(full: bool) -> None:
        metrics.DISK_FAILURES.labels("full" if full else "given_up").inc()
        feed(DiskUnusable(full))

    async with contextlib.AsyncExitStack() as stack:
        tier: DiskTier | None = None
        if section.ssd_directory:
            directory = Path(section.ssd_directory)
            tier = await stack.enter_async_context(ssd.opened(directory, section.ssd_bytes, arena.data, failed))
        peers = await stack.enter_async_context(way(section).peers(arena.data))
        async with _alone(asyncio.TaskGroup()) as tasks:
            transfers = Transfers(tasks, tier, peers, speeds, feed)
            try:
                yield transfers
            finally:
                transfers.cancel()


@contextlib.asynccontextmanager
async def _alone(tasks: asyncio.TaskGroup) -> AsyncGenerator[asyncio.TaskGroup]:
    """The group, which raises the block's error as it is: its tasks raise none."""
    try:
        async with tasks:
            yield tasks
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group.exceptions[0].__cause__


def way(section: KVPoolSection) -> transport.Transport:
    """How pools copy between each other. Raises SettingsError."""
    try:
        return transport.choose(section.transport)
    except ValueError as error:
        raise SettingsError(f"kvpool.transport: {error}") from None
