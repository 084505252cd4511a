"""Pulls blocks from peers over sockets, straight into the arena."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from services.common import tls
from services.common.kv import Arena
from services.common.tls import Identity
from services.kvpool.transport import Came, Link, Pulled, Stop, shards, sockets, wire
from services.kvpool.transport.connections import Connections
from services.kvpool.transport.greeting import Greeting
from services.kvpool.transport.limits import PullLimits
from services.kvpool.transport.tally import Share, Tally

_FAILURES = frozenset({Stop.UNREACHABLE, Stop.BROKEN, Stop.STALLED, Stop.NONSENSE})
"""After these an address is left alone for a moment."""


@contextlib.asynccontextmanager
async def peers(
    arena: Arena, limits: PullLimits | None = None, own: Identity | None = None
) -> AsyncGenerator["TcpPeers"]:
    """Pull until the context is left, which is when no pull is under way any more. `own`: None: who this process is."""
    limits = limits or PullLimits()
    connections = Connections(limits, Greeting(own or tls.own(), server=False))
    with ThreadPoolExecutor(limits.num_receives, "pull") as threads, contextlib.closing(connections):
        yield TcpPeers(arena, limits, connections, threads)


class _Stopped(Exception):
    """An exchange failed."""

    def __init__(self, stop: Stop, detail: str) -> None:
        super().__init__(detail)
        self.stop = stop


class TcpPeers:
    """Peers over sockets."""

    def __init__(self, arena: Arena, limits: PullLimits, connections: Connections, threads: ThreadPoolExecutor) -> None:
        self._arena = arena
        self._limits = limits
        self._connections = connections
        self._threads = threads
        self._turns = asyncio.Semaphore(limits.num_receives)

    async def resolve(
        self, address: str, namespace_id: str, tip: int, num_blocks: int, timeout_seconds: float
    ) -> list[Link]:
        if self._connections.paused(address):
            return []
        num_blocks = min(num_blocks, wire.MAX_BLOCKS)
        request = wire.Resolve(namespace_id, tip, num_blocks, timeout_seconds)
        try:
            async with asyncio.timeout(timeout_seconds):
                sock, answer = await self._ask(address, request, timeout_seconds)
        except (_Stopped, TimeoutError):
            self._connections.pause(address)
            return []
        well = isinstance(answer, wire.Resolved | wire.Refusal)
        self._end(address, sock, well)
        if not well:
            self._connections.pause(address)
        hashes = list(answer.hashes[:num_blocks]) if isinstance(answer, wire.Resolved) else []
        return [Link(*link) for link in zip(hashes, [b"", *hashes], strict=False)]

    async def pull(
        self,
        address: str,
        namespace_id: str,
        hashes: Sequence[bytes],
        offsets: Sequence[int],
        num_shards: int,
        shard_bytes: int,
        timeout_seconds: float,
        came: Came | None = None,
    ) -> Pulled:
        block_bytes = num_shards * shard_bytes
        if not all(0 <= offset <= self._arena.nbytes - block_bytes for offset in offsets) or block_bytes <= 0:
            raise ValueError(f"slots of {block_bytes} bytes outside the arena")
        if not len(offsets) <= len(hashes) <= wire.MAX_BLOCKS:
            raise ValueError(
                f"{len(offsets)} slots for a chain of {len(hashes)} blocks, the limit is {wire.MAX_BLOCKS}"
            )
        loop = asyncio.get_running_loop()
        started = loop.time()
        tally = Tally(len(offsets), num_shards, came)
        if self._connections.paused(address):
            return Pulled(0, (), 0.0, Stop.PAUSED)
        read = wire.Read(namespace_id, hashes, len(hashes) - len(offsets), num_shards, shard_bytes, 0, 0)
        stop, detail = Stop.COMPLETE, ""
        try:
            async with asyncio.timeout_at(started + timeout_seconds):
                stop = await self._rounds(address, read, offsets, tally, started + timeout_seconds)
        except TimeoutError:
            stop = Stop.LATE if tally.num_leading else Stop.STALLED
        except _Stopped as stopped:
            stop, detail = stopped.stop, str(stopped)
        if stop in _FAILURES:
            self._connections.pause(address)
        return Pulled(tally.num_leading, tally.checksums, loop.time() - started, stop, detail)

    async def _rounds(self, address: str, read: wire.Read, offsets: Sequence[int], tally: Tally, until: float) -> Stop:
        """Ask until all is here or nothing more comes: a peer may lend less at a time than it has."""
        while tally.num_leading < len(offsets):
            first = tally.num_leading
            seconds = max(0.0, until - asyncio.get_running_loop().time())
            num_bytes = (len(offsets) - first) * read.block_bytes
            part = replace(
                read,
                first_block=read.first_block + first,
                wait_seconds=seconds / 2,  # the bytes need time, too
                lease_seconds=seconds,
                num_streams=max(1, min(self._limits.num_streams, num_bytes // self._limits.stripe_bytes)),
                stripe_blocks=max(1, self._limits.stripe_bytes // read.block_bytes),
            )
            shares = [replace(part, stream=stream) for stream in range(part.num_streams)]
            await _all([self._stream(address, share, first, offsets, tally) for share in shares])
            if tally.num_leading == first:
                return Stop.SHORT
        return Stop.COMPLETE

    async def _stream(self, address: str, read: wire.Read, first: int, offsets: Sequence[int], tally: Tally) -> None:
        """One stream's share of the blocks from `first` on."""
        async with self._turns:
            sock, answer = await self._ask(address, read, read.wait_seconds)
            well = False
            try:
                match answer:
                    case wire.Offer():
                        await self._receive(sock, read, answer, first, offsets, tally)
                        well = True
                    case wire.Refusal():
                        well = True
                        raise _Stopped(Stop.REFUSED, f"{answer.reason}: {answer.message}")
                    case _:
                        raise _Stopped(Stop.NONSENSE, f"answered by {type(answer).__name__}")
            finally:
                self._end(address, sock, well)

    async def _receive(
        self,
        sock: socket.socket,
        read: wire.Read,
        offer: wire.Offer,
        first: int,
        offsets: Sequence[int],
        tally: Tally,
    ) -> None:
        blocks = read.share(offer.num_blocks) if offer.num_blocks <= read.num_wanted else []
        if offer.num_blocks > read.num_wanted or len(offer.checksums) != len(blocks) * read.num_shards:
            raise _Stopped(Stop.NONSENSE, f"{offer.num_blocks} blocks with {len(offer.checksums)} checksums")
        if not blocks:
            return
        blocks = [first + i for i in blocks]
        share = Share(tally, blocks, offer.checksums, read.num_shards)
        loop = asyncio.get_running_loop()

        def tell(num_shards: int) -> None:
            loop.call_soon_threadsafe(share.tell, num_shards)

        starts = [offsets[i] + shard * read.shard_bytes for i in blocks for shard in range(read.num_shards)]
        tell_every = max(1, self._limits.report_bytes // read.shard_bytes)
        receive = partial(
            shards.receive, sock, self._arena, starts, read.shard_bytes, offer.checksums, tell, tell_every
        )
        try:
            await sockets.in_thread(self._threads, sock, self._limits.stall_seconds, receive)
        except shards.CorruptBlock as error:
            raise _Stopped(Stop.CORRUPT, str(error)) from None
        except OSError as error:
            raise _stopped(error) from None

    async def _ask(
        self, address: str, request: wire.Read | wire.Resolve, wait_seconds: float
    ) -> tuple[socket.socket, wire.Frame]:
        """Send the request; the answer, on the connection it came on. Raises _Stopped."""
        kept = self._connections.take(address)
        if kept is not None:
            with contextlib.suppress(ConnectionError):  # the peer has just closed it: that is not a failure yet
                return kept, await self._exchange(kept, request, wait_seconds)
        try:
            sock = await self._connections.connect(address)
        except (OSError, ValueError) as error:
            raise _Stopped(Stop.UNREACHABLE, f"{address}: {error or 'timed out'}") from None
        try:
            return sock, await self._exchange(sock, request, wait_seconds)
        except ConnectionError as error:
            raise _stopped(error) from None

    async def _exchange(
        self, sock: socket.socket, request: wire.Read | wire.Resolve, wait_seconds: float
    ) -> wire.Frame:
        """Raises ConnectionError, and _Stopped for other failures; the socket is closed then."""
        stall_seconds = self._limits.stall_seconds
        try:
            await sockets.send_frame(sock, request, stall_seconds)
            return await sockets.read_frame(sock, wait_seconds + stall_seconds, stall_seconds)
        except ConnectionError:
            sock.close()
            raise
        except (OSError, wire.WireError) as error:
            sock.close()
            raise _stopped(error) from None
        except BaseException:
            sock.close()
            raise

    def _end(self, address: str, sock: socket.socket, well: bool) -> None:
        if well:
            self._connections.keep(address, sock)
        else:
            sock.close()


async def _all(streams: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure ends the others. A TaskGroup would wrap it, and may forget a cancellation then."""
    tasks = [asyncio.create_task(stream) for stream in streams]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await sockets.outlast(tasks)
    failures = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if failures:
        raise failures[0]


def _stopped(error: OSError | wire.WireError) -> _Stopped:
    match error:
        case wire.WireError():
            return _Stopped(Stop.NONSENSE, str(error))
        case TimeoutError():
            return _Stopped(Stop.STALLED, str(error) or "no answer")
        case OSError():
            return _Stopped(Stop.BROKEN, str(error))
