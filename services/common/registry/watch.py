"""A watch that resumes: every change after a given revision, once and in order, over as many connections as it takes.

While etcd is away it waits and yields nothing. It notices silence: it asks for a sign of life four times per
`silence_seconds`, and a connection that stays silent that long is replaced, also when its socket looks healthy
(a stopped server, a cut network). After each reconnect it yields a batch with `resumed` set, perhaps an empty one.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import grpc
import grpc.aio

from services.common.backoff import Backoff
from services.common.registry import etcd_pb2 as pb
from services.common.registry.client import prefix_end
from services.common.registry.connection import Connection, EtcdError, Method, Unavailable, failure_of

WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


class Compacted(Exception):
    """Changes may have been missed: the server no longer has that history, or lost its data. List again."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key was written, or deleted if `value` is None."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that arrived together; all those of one revision stand in one batch."""

    changes: tuple[Change, ...]
    resumed: bool
    """The connection had been lost before this batch."""


async def watch(
    connection: Connection, key: str, *, after: int, silence_seconds: float, prefix: bool = False
) -> AsyncGenerator[Batch]:
    """Changes of `key` (of all keys that start with it if `prefix`) with revisions greater than `after`.

    Raises Compacted, or EtcdError when the watch is refused. Close it (aclosing) to end the stream at once.
    """
    create = pb.WatchCreateRequest(key=key.encode(), range_end=prefix_end(key) if prefix else b"")
    resumed, denied, backoff = False, False, Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        create.start_revision = after + 1
        server = connection.current
        try:
            async with aclosing(_responses(connection, create, silence_seconds)) as responses:
                async for response in responses:
                    _check(response, after)
                    if response.canceled:
                        raise EtcdError(grpc.StatusCode.PERMISSION_DENIED, response.cancel_reason)
                    denied = False
                    backoff.reset()
                    if response.events or (response.created and resumed):
                        yield Batch(tuple(_change(event) for event in response.events), resumed)
                        resumed = False
                    if response.events:  # not the header's revision: a long history comes in several batches
                        after = response.events[-1].kv.mod_revision
        except Unavailable as failure:
            if not resumed:  # once per absence
                logger.info("watch of %s lost: %s", key, failure)
            connection.move_on(server)
            denied = False  # a server that was away knows no token of before
        except EtcdError:  # etcd tells a void token from a lack of permission only by what a new token does
            if denied or not connection.authenticated:
                raise
            denied = True
            connection.forget_token()
        resumed = True
        await asyncio.sleep(backoff.next_seconds() * random.uniform(0.5, 1.5))


async def _responses(
    connection: Connection, create: pb.WatchCreateRequest, silence_seconds: float
) -> AsyncGenerator[pb.WatchResponse]:
    """What one stream brings. Ends by raising: `Unavailable` when it breaks, ends or falls silent."""
    try:
        call = await connection.stream(WATCH, _requests(create, silence_seconds / 4))
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        raise failure_of(error) from error
    try:
        while True:
            async with asyncio.timeout(silence_seconds):
                response = await call.read()
            if not isinstance(response, pb.WatchResponse):
                raise Unavailable(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
            yield response
    except (grpc.aio.AioRpcError, TimeoutError) as error:
        raise failure_of(error) from error
    finally:
        call.cancel()


async def _requests(create: pb.WatchCreateRequest, every_seconds: float) -> AsyncIterator[pb.WatchRequest]:
    yield pb.WatchRequest(create=create)
    while True:
        await asyncio.sleep(every_seconds)
        yield pb.WatchRequest(progress=pb.WatchProgressRequest())


def _check(response: pb.WatchResponse, after: int) -> None:
    if response.compact_revision:
        raise Compacted(f"history up to revision {response.compact_revision} is gone")
    if response.created and not response.canceled and response.header.revision < after:
        raise Compacted(f"the server is at revision {response.header.revision}, {after} has been seen")


def _change(event: pb.Event) -> Change:
    value = None if event.type == pb.Event.DELETE else event.kv.value
    return Change(event.kv.key.decode(), value, event.kv.mod_revision)
