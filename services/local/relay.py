"""A port of this host that leads to wherever a service is at the time of each connection.

A control job that follows another one runs on another host, with other ports. Workers reach its etcd through a relay of
their own node: to them etcd was away for a while, which they are made for, and they keep engines and KV.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024
_CONNECT_SECONDS = 3.0


@contextlib.asynccontextmanager
async def relaying(target: Callable[[], str | None]) -> AsyncGenerator[str]:
    """Relay until left; yields host:port. `target` says where to, as host:port; None or a dead address ends the
    connection, and clients try again."""
    relays: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # by us alone; asyncio would complain of it
            await _relay(target, reader, writer)
        relays.discard(task)

    server = await asyncio.start_server(accept, HOST, 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = set(relays)
        for relay in left:
            relay.cancel()
        if left:
            await asyncio.wait(left)


async def _relay(target: Callable[[], str | None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, until either end closes it."""
    with contextlib.closing(writer):
        address = await asyncio.to_thread(target)
        if address is None:
            return
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                there, back = await asyncio.open_connection(host, int(port))
        except OSError as error:
            log.debug("relay: nothing at %s: %s", address, error)
            return
        with contextlib.closing(back):
            ways = {asyncio.ensure_future(_copy(reader, back)), asyncio.ensure_future(_copy(there, writer))}
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
