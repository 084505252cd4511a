"""Errands: what the scheduler asks of one pool beside the calls: prefetches, and giving up the programs that ended.

Nothing waits for them. A prefetch is tried once and soon, for its call goes to its worker meanwhile; beyond a bound new
ones are not sent. A release is kept while the pool is briefly away: it is tried a few times and then dropped, as the
oldest are beyond a bound; what a pool keeps for nobody ages out of it anyway.
"""

import asyncio
import logging

import grpc

from legato.v1 import kvpool_pb2, kvpool_pb2_grpc
from services.common import rpc
from services.common.backoff import Backoff
from services.scheduler import metrics
from services.scheduler.kv_translation import prefetch_of
from services.scheduler.pool_events import Prefetch

_log = logging.getLogger(__name__)

_MOST_PREFETCHES = 256
"""Waiting or under way."""
_PREFETCH_SECONDS = 1.0
_MOST_RELEASES = 10_000
_RELEASE_BATCH = 64
"""Under way at once."""
_RELEASE_SECONDS = 2.0
_RELEASE_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


class Errands:
    """Of one pool. Filled at any time, performed while `run` runs."""

    def __init__(self, pool_id: str) -> None:
        self._pool_id = pool_id
        self._prefetches: asyncio.Queue[Prefetch] = asyncio.Queue(_MOST_PREFETCHES)
        self._num_prefetching = 0
        self._releases: dict[str, int] = {}
        """Failed attempts by program."""
        self._changed = asyncio.Event()

    def prefetch(self, prefetch: Prefetch) -> None:
        """Ask for blocks; dropped when too many are asked for already."""
        if self._prefetches.qsize() + self._num_prefetching >= _MOST_PREFETCHES:
            metrics.PREFETCHES.labels("dropped").inc()
        else:
            self._prefetches.put_nowait(prefetch)

    def release(self, program_id: str) -> None:
        """Let the pool give up what it keeps for the program alone."""
        self._releases[program_id] = 0
        if len(self._releases) > _MOST_RELEASES:
            del self._releases[next(iter(self._releases))]
        self._changed.set()

    async def run(self, stub: kvpool_pb2_grpc.KVPoolServiceStub) -> None:
        """Do what there is to do until cancelled."""
        self._num_prefetching = 0  # what an earlier run left unfinished is over
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._release(stub), name=f"release programs at {self._pool_id}")
            while True:
                prefetch = await self._prefetches.get()
                self._num_prefetching += 1
                tasks.create_task(self._prefetch(stub, prefetch))

    async def _prefetch(self, stub: kvpool_pb2_grpc.KVPoolServiceStub, prefetch: Prefetch) -> None:
        try:
            await stub.Prefetch(prefetch_of(prefetch), timeout=_PREFETCH_SECONDS)
            metrics.PREFETCHES.labels("asked").inc()
        except grpc.aio.AioRpcError as error:
            metrics.PREFETCHES.labels("failed").inc()
            _log.info("pool %s: prefetch failed: %s", self._pool_id, rpc.failure_from(error))
        finally:
            self._num_prefetching -= 1

    async def _release(self, stub: kvpool_pb2_grpc.KVPoolServiceStub) -> None:
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            while not self._releases:
                self._changed.clear()
                await self._changed.wait()
            batch = list(self._releases)[:_RELEASE_BATCH]
            results = await asyncio.gather(*(self._release_one(stub, program_id) for program_id in batch))
            if all(results):
                backoff.reset()
            else:
                await backoff.pause()  # gives the pool time to come back

    async def _release_one(self, stub: kvpool_pb2_grpc.KVPoolServiceStub, program_id: str) -> bool:
        """Whether there is no need to wait before the next ones."""
        request = kvpool_pb2.ReleaseProgramRequest(program_id=program_id)
        try:
            await stub.ReleaseProgram(request, timeout=_RELEASE_SECONDS)
        except grpc.aio.AioRpcError as error:
            failed = self._releases.pop(program_id, _RELEASE_ATTEMPTS) + 1
            if failed < _RELEASE_ATTEMPTS:
                self._releases[program_id] = failed  # behind the others
            else:
                _log.info("pool %s: %s is not released: %s", self._pool_id, program_id, rpc.failure_from(error))
            return False
        self._releases.pop(program_id, None)
        return True
