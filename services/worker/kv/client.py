"""The pool, asked from an engine that cannot wait for it.

A thread runs an event loop with the gRPC channel; it starts with the first request, which comes after the EngineCore
was forked. Requests return a future at once. A future always ends, within the request's deadline, and never with an
exception: None says that the pool has no answer. A pool that does not answer is left alone for a second, during which
requests end at once; then it has to attach again before it is asked anything else. So a pool that is dead or stands
still costs one deadline, not one for each request.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from legato.v1 import kv_pb2, kvpool_pb2, kvpool_pb2_grpc
from services.common import kv, rpc

_log = logging.getLogger(__name__)

CONTROL_SECONDS = 1.0
"""Longest wait for an answer that needs no disk and no peer."""
PAUSE_SECONDS = 1.0
"""A pool that did not answer is left alone for so long."""
REFUSED_SECONDS = 30.0
"""The same for one that will not have this engine's blocks."""
_MAX_OUTSTANDING = 256
_POPULATE_BYTES = 16 * 1024 * 1024
_MADV_POPULATE_WRITE = 23

T = TypeVar("T")
_Answer = TypeVar("_Answer", kvpool_pb2.AcquireResponse, kvpool_pb2.BeginStoreResponse)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One life of the pool."""

    arena_id: str
    arena: kv.Arena


class PoolClient:
    """All methods may be called from any thread."""

    def __init__(self, address: str, namespace: kv_pb2.KVNamespace) -> None:
        self.namespace_id = kv.namespace_id(namespace)
        self._namespace = namespace
        self._address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stub: kvpool_pb2_grpc.KVPoolServiceStub | None = None
        self._attachment: Attachment | None = None
        self._attaching: asyncio.Task[None] | None = None
        self._populating: asyncio.Future[None] | None = None
        self._away_until = 0.0
        self._tried = False
        self._closed = False
        self._num_outstanding = 0

    @property
    def attachment(self) -> Attachment | None:
        """None: the pool is away, or has not been asked yet."""
        return self._attachment

    @property
    def closed(self) -> bool:
        """Whether it answers no more."""
        return self._closed

    def attach(self) -> "Future[None]":
        """Begin to attach, so that the first request need not."""
        return self._submit(self._attached(), None)

    def arena(self, arena_id: str) -> kv.Arena | None:
        """The memory that offsets with this id are in; waits for it if need be."""
        if self._attachment is None or self._attachment.arena_id != arena_id:
            self.attach().result(2 * CONTROL_SECONDS)
        attachment = self._attachment
        return attachment.arena if attachment is not None and attachment.arena_id == arena_id else None

    def acquire(
        self, request: kvpool_pb2.AcquireRequest, wait_seconds: float
    ) -> "Future[kvpool_pb2.AcquireResponse | None]":
        """Ask for blocks; the pool may take `wait_seconds` to get them."""

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.AcquireResponse:
            return await stub.Acquire(request, timeout=wait_seconds + CONTROL_SECONDS)

        return self._submit(self._placed(ask), None)

    def begin_store(self, request: kvpool_pb2.BeginStoreRequest) -> "Future[kvpool_pb2.BeginStoreResponse | None]":
        """Ask for room."""

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.BeginStoreResponse:
            return await stub.BeginStore(request, timeout=CONTROL_SECONDS)

        return self._submit(self._placed(ask), None)

    def commit(
        self, reservation_id: str, checksums: Sequence[int], copy_seconds: float
    ) -> "Future[kvpool_pb2.CommitResponse | None]":
        """Say that the bytes are written."""
        request = kvpool_pb2.CommitRequest(
            reservation_id=reservation_id, checksums=checksums, copy_seconds=copy_seconds
        )

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.CommitResponse:
            return await stub.Commit(request, timeout=CONTROL_SECONDS)

        return self._submit(self._call(ask), None)

    def abort(self, reservation_id: str) -> None:
        """Give room back."""
        request = kvpool_pb2.AbortRequest(reservation_id=reservation_id)

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.AbortResponse:
            return await stub.Abort(request, timeout=CONTROL_SECONDS)

        self._submit(self._call(ask), None)

    def release(self, lease: kvpool_pb2.ReleasedLease) -> None:
        """End a lease."""
        request = kvpool_pb2.ReleaseRequest(leases=[lease])

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.ReleaseResponse:
            return await stub.Release(request, timeout=CONTROL_SECONDS)

        self._submit(self._call(ask), None)

    def finish_call(self, user: kv_pb2.KVUser) -> None:
        """A call of the user ended."""
        request = kvpool_pb2.FinishCallRequest(namespace_id=self.namespace_id, user=user)

        async def ask(stub: kvpool_pb2_grpc.KVPoolServiceStub) -> kvpool_pb2.FinishCallResponse:
            return await stub.FinishCall(request, timeout=CONTROL_SECONDS)

        self._submit(self._call(ask), None)

    def close(self) -> None:
        """Stop the thread; requests that are under way end with None."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(loop.stop)
            thread.join(CONTROL_SECONDS)

    # From any thread to the loop's.

    def _submit(self, work: Coroutine[Any, Any, T], missing: T) -> "Future[T]":
        """Have the loop do it. What goes wrong, or is too much, is as good as not there."""
        answer: Future[T] = Future()
        with self._lock:
            if self._closed or self._num_outstanding >= _MAX_OUTSTANDING:
                work.close()
                answer.set_result(missing)
                return answer
            self._num_outstanding += 1
            loop = self._loop or self._start()

        def ended(done: "Future[T]") -> None:
            with self._lock:
                self._num_outstanding -= 1
            failed = done.cancelled() or done.exception() is not None
            answer.set_result(missing if failed else done.result())

        asyncio.run_coroutine_threadsafe(work, loop).add_done_callback(ended)
        return answer

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="kv-pool", daemon=True)
        self._thread.start()
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        channel = rpc.channel(self._address, "kvpool")
        self._stub = kvpool_pb2_grpc.KVPoolServiceStub(channel)
        try:
            loop.run_forever()
        finally:
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            loop.run_until_complete(channel.close())
            loop.close()

    # On the loop's thread.

    async def _placed(self, ask: Callable[[kvpool_pb2_grpc.KVPoolServiceStub], Awaitable[_Answer]]) -> _Answer | None:
        """Ask for something with offsets; they are in the arena that is attached when this returns."""
        answer = await self._call(ask)
        if answer is not None and (self._attachment is None or self._attachment.arena_id != answer.arena_id):
            self._attachment = None  # another life of the pool
            await self._attached()
            if self._attachment is None or self._attachment.arena_id != answer.arena_id:
                return None
        return answer

    async def _call(self, ask: Callable[[kvpool_pb2_grpc.KVPoolServiceStub], Awaitable[T]]) -> T | None:
        for _ in range(2):
            await self._attached()
            if self._attachment is None or self._stub is None:
                return None
            try:
                return await ask(self._stub)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    self._failed(error)
                    return None
                self._attachment = None  # it knows nothing of us: it was started anew
        return None

    async def _attached(self) -> None:
        """Attach, unless it is done or hopeless. Only the first time is waited for, and after a restart of the pool."""
        if self._attachment is not None or time.monotonic() < self._away_until:
            return
        if self._attaching is None:
            self._attaching = asyncio.get_running_loop().create_task(self._attach())
        elif self._tried:
            return
        if self._away_until and self._tried:
            return  # it did not answer before: it may show first that it does now
        await asyncio.shield(self._attaching)

    async def _attach(self) -> None:
        assert self._stub is not None, "the thread has started"
        try:
            request = kvpool_pb2.AttachRequest(namespace=self._namespace, pid=os.getpid())
            answer = await self._stub.Attach(request, timeout=CONTROL_SECONDS)
            arena = kv.map_arena(answer.arena_path, answer.arena_bytes)
            self._attachment = Attachment(answer.arena_id, arena)
            self._populating = asyncio.get_running_loop().run_in_executor(None, _populate, arena)
            self._away_until = 0.0
            _log.info("attached to pool %s", answer.pool_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                _log.warning("the pool will not have this engine's blocks: %s", error.details())
                self._leave(REFUSED_SECONDS)
            else:
                self._leave(PAUSE_SECONDS)
        except (OSError, ValueError) as error:
            _log.warning("the pool's memory cannot be mapped: %s", error)
            self._leave(REFUSED_SECONDS)
        finally:
            self._tried = True
            self._attaching = None

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        """What was asked failed; anything but silence is about that request alone, such as a lapsed reservation."""
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._leave(PAUSE_SECONDS)
        else:
            _log.debug("the pool refused: %s", error.details())

    def _leave(self, seconds: float) -> None:
        if self._attachment is not None or not self._tried:
            _log.warning("the KV pool at %s does not answer; KV is computed meanwhile", self._address)
        self._attachment = None
        self._away_until = time.monotonic() + seconds


def _populate(arena: kv.Arena) -> None:
    """Have the arena's pages in this process's page table before copies need them. They are there, so it is quick."""
    mapping: object = getattr(arena.base, "obj", arena.base)
    if isinstance(mapping, mmap.mmap):
        with contextlib.suppress(OSError):  # an older kernel
            for start in range(0, arena.nbytes, _POPULATE_BYTES):  # in pieces, for the GIL is held meanwhile
                mapping.madvise(_MADV_POPULATE_WRITE, start, min(_POPULATE_BYTES, arena.nbytes - start))


_shared: dict[tuple[str, str], PoolClient] = {}
_shared_lock = threading.Lock()


def shared(address: str, namespace: kv_pb2.KVNamespace) -> PoolClient:
    """One client for all of this process that want the same: both sides of a connector."""
    key = (address, kv.namespace_id(namespace))
    with _shared_lock:
        client = _shared.get(key)
        if client is None or client.closed:
            client = _shared[key] = PoolClient(address, namespace)
        return client
