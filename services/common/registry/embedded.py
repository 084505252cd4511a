"""An etcd stand-in for one machine: the part of etcd's API that the registry uses, in memory, in this event loop.

No persistence, users or TLS: it is meant for one host, where the process that serves it is the cluster's main one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from services.common.registry import client
from services.common.registry import etcd_pb2 as pb
from services.common.registry.beside import beside
from services.common.registry.connection import Method
from services.common.registry.store import NotFound, OutOfRange, Store, Unsupported
from services.common.registry.watch import WATCH

Context = grpc.aio.ServicerContext[Any, Any]
STATUS = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}
SERVER_OPTIONS = (("grpc.http2.min_ping_interval_without_data_ms", 5_000), ("grpc.so_reuseport", 0))


@asynccontextmanager
async def serve_embedded(host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve during the block; yields host:port, where `host` is an address that clients can reach. Port 0: any."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    first_lease = time.time_ns() >> 10  # a client that outlives this process must not meet its lease's id again
    handlers = _Handlers(Store(first_lease))
    server.add_generic_rpc_handlers((handlers,))
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield f"{host}:{bound}"
    finally:
        await server.stop(grace=0.2)
        handlers.close()


class _Handlers(grpc.GenericRpcHandler):
    """The methods by path, the clock of the leases, and who waits for changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: set[asyncio.Event] = set()
        self._told = (store.revision, store.compacted)
        now = self._loop.time
        unary: list[tuple[Method[Any, Any], Callable[[Any], Message]]] = [
            (client.RANGE, store.range),
            (client.PUT, store.put),
            (client.DELETE, store.delete),
            (client.TXN, store.txn),
            (client.COMPACT, store.compact),
            (client.GRANT, lambda request: store.grant(request, now())),
            (client.RENEW, lambda request: store.renew(request, now())),
            (client.REVOKE, store.revoke),
        ]
        self._methods = {method.path: self._unary(method, answer) for method, answer in unary}
        self._methods[WATCH.path] = grpc.stream_stream_rpc_method_handler(
            self._watch, WATCH.request.FromString, WATCH.response.SerializeToString
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._methods.get(handler_call_details.method)

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _unary(self, method: Method[Any, Any], answer: Callable[[Any], Message]) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(request: Message, context: Context) -> Message:
            try:
                response = answer(request)
            except (NotFound, OutOfRange, Unsupported) as refusal:
                await context.abort(STATUS[type(refusal)], str(refusal))
            self._changed()
            return response

        return grpc.unary_unary_rpc_method_handler(handle, method.request.FromString, method.response.SerializeToString)

    def _changed(self) -> None:
        """Wake the watchers if there is news for them, and set the timer for the next lease that is due."""
        news = (self._store.revision, self._store.compacted)
        if news != self._told:
            self._told = news
            for watcher in self._watchers:
                watcher.set()
        if self._timer is not None:
            self._timer.cancel()
        due = self._store.next_tick()
        self._timer = self._loop.call_at(due, self._on_timer) if due is not None else None

    def _on_timer(self) -> None:
        self._store.tick(self._loop.time())
        self._changed()

    async def _watch(self, requests: AsyncIterator[pb.WatchRequest], context: Context) -> None:
        """One watch per stream. Bounded: it holds a revision, not a queue, and reads the store's history."""
        create = (await anext(requests)).create
        create.start_revision = create.start_revision or self._store.revision + 1
        await context.write(pb.WatchResponse(header=self._store.header(), created=True))
        asked, wake = asyncio.Event(), asyncio.Event()
        self._watchers.add(wake)
        try:
            async with beside(_note_progress_requests(requests, asked, wake)):
                await self._send_changes(create, context.write, asked, wake)
        finally:
            self._watchers.discard(wake)

    async def _send_changes(
        self,
        create: pb.WatchCreateRequest,
        write: Callable[[pb.WatchResponse], Awaitable[None]],
        asked: asyncio.Event,
        wake: asyncio.Event,
    ) -> None:
        store = self._store
        while True:
            if create.start_revision < store.compacted:
                await write(pb.WatchResponse(header=store.header(), canceled=True, compact_revision=store.compacted))
                return
            header, events = store.header(), store.changes(create)
            create.start_revision = max(create.start_revision, store.revision + 1)
            if events or asked.is_set():
                asked.clear()
                await write(pb.WatchResponse(header=header, events=events))
                continue  # there may be more since
            await wake.wait()
            wake.clear()


async def _note_progress_requests(
    requests: AsyncIterator[pb.WatchRequest], asked: asyncio.Event, wake: asyncio.Event
) -> None:
    async for _ in requests:
        asked.set()
        wake.set()
