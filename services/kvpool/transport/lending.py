"""Lends this pool's blocks to peers over sockets.

The event loop talks; a thread for each peer that reads sends straight from the arena. All that a peer can make this
side do is bounded: connections, threads, bytes lent at a time, seconds.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, assert_never

from services.common import tls
from services.common.errors import Failure, Reason
from services.common.kv import Arena
from services.common.registry.beside import beside
from services.common.tls import Identity
from services.kvpool.transport import Lent, Source, shards, sockets, wire
from services.kvpool.transport.greeting import Greeting
from services.kvpool.transport.limits import LendLimits

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_GRACE_SECONDS: Final = 1.0
"""A source that is told how long to wait may take so much longer."""


@dataclass(frozen=True, slots=True)
class TcpServer:
    """Lends to peers."""

    address: str


@contextlib.asynccontextmanager
async def serve(
    source: Source,
    arena: Arena,
    host: str,
    port: int,
    limits: LendLimits | None = None,
    own: Identity | None = None,
) -> AsyncGenerator[TcpServer]:
    """Lend until the context is left. `own`: None: who this process is. Raises OSError when the port is taken."""
    limits = limits or LendLimits()
    greeting = Greeting(own or tls.own(), server=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener,
        ThreadPoolExecutor(limits.num_sends, "lend") as threads,
    ):
        listener.setblocking(False)
        bound = listener.getsockname()[1]
        async with beside(_Lender(source, arena, limits, threads, greeting).accept(listener)):
            yield TcpServer(f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}")


class _Allowance:
    """Bytes that may be lent."""

    def __init__(self, num_bytes: int) -> None:
        self.total = num_bytes
        self._free = num_bytes
        self._given = asyncio.Event()

    async def take(self, wanted: int, least: int) -> int:
        """Wait for at least `least`, which is no more than the total."""
        while self._free < least:
            self._given.clear()
            await self._given.wait()
        taken = min(wanted, self._free)
        self._free -= taken
        return taken

    def give(self, num_bytes: int) -> None:
        self._free += num_bytes
        self._given.set()


class _Lender:
    def __init__(
        self, source: Source, arena: Arena, limits: LendLimits, threads: ThreadPoolExecutor, greeting: Greeting
    ) -> None:
        self._greeting = greeting
        self._source = source
        self._arena = arena
        self._limits = limits
        self._threads = threads
        self._turns = asyncio.Semaphore(limits.num_sends)
        self._allowance = _Allowance(int(arena.nbytes * limits.arena_fraction))
        self._num_connections = 0

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:
                    _log.warning("cannot accept a peer: %s", error)
                    await asyncio.sleep(0.1)  # out of descriptors, most likely: time for some to be closed
                    continue
                self._num_connections += 1
                tasks.create_task(self._converse(sock))

    async def _converse(self, sock: socket.socket) -> None:
        stall_seconds = self._limits.stall_seconds
        try:
            sockets.prepare(sock)
            if self._num_connections > self._limits.num_connections:
                busy = wire.Refusal(Reason.TOO_MANY_CALLS.name, f"{self._limits.num_connections} connections")
                await sockets.send_frame(sock, busy, stall_seconds)
                return
            await self._greeting.exchange(sock, stall_seconds)
            while True:
                request = await sockets.read_frame(sock, self._limits.idle_seconds, stall_seconds)
                await self._answer(sock, request)
        except (ssl.SSLError, PermissionError) as error:
            _log.warning("a peer was refused: %s", error)
        except (OSError, wire.WireError) as error:  # TimeoutError and Closed are OSErrors
            _log.debug("a peer's connection ended: %s", error)
        except Exception:
            _log.exception("cannot serve a peer")
        finally:
            self._num_connections -= 1
            sock.close()

    async def _answer(self, sock: socket.socket, request: wire.Frame) -> None:
        try:
            match request:
                case wire.Read():
                    await self._read(sock, request)
                case wire.Resolve():
                    async with asyncio.timeout(min(request.wait_seconds, self._limits.wait_seconds)):
                        links = await self._source.resolve(request.namespace_id, request.tip, request.num_blocks)
                    answer = wire.Resolved([link.hash for link in links[: request.num_blocks]])
                    await sockets.send_frame(sock, answer, self._limits.stall_seconds)
                case wire.Resolved() | wire.Offer() | wire.Refusal():
                    raise wire.WireError(f"{type(request).__name__} is no request")
                case _:
                    assert_never(request)
        except Failure as failure:
            refusal = wire.Refusal(failure.reason.name, failure.message)
            await sockets.send_frame(sock, refusal, self._limits.stall_seconds)

    async def _read(self, sock: socket.socket, read: wire.Read) -> None:
        """Lend and send. The room is waited for before anything is held."""
        if read.block_bytes > self._allowance.total:
            raise Failure(Reason.INVALID_ARGUMENT, f"blocks of {read.block_bytes} bytes")
        wait_seconds = min(read.wait_seconds, self._limits.wait_seconds)
        until = asyncio.get_running_loop().time() + wait_seconds
        wanted = min(-(-read.num_wanted // read.num_streams), wire.MAX_CHECKSUMS // read.num_shards)
        try:
            async with asyncio.timeout_at(until):
                await self._turns.acquire()
        except TimeoutError:
            raise Failure(Reason.TOO_MANY_CALLS, "too many peers read") from None
        try:
            async with asyncio.timeout_at(until):
                taken = await self._allowance.take(wanted * read.block_bytes, read.block_bytes)
        except TimeoutError:
            self._turns.release()
            raise Failure(Reason.TOO_MANY_CALLS, "too much is lent") from None
        try:
            num_blocks = taken // read.block_bytes * read.num_streams
            await self._lend(sock, read, read.hashes[: read.first_block + num_blocks], until)
        finally:
            self._allowance.give(taken)
            self._turns.release()

    async def _lend(self, sock: socket.socket, read: wire.Read, hashes: Sequence[bytes], until: float) -> None:
        wait_seconds = max(0.0, until - asyncio.get_running_loop().time())
        lease_seconds = min(read.lease_seconds, self._limits.lease_seconds)
        async with asyncio.timeout(wait_seconds + _GRACE_SECONDS):
            lent = await self._source.lend(
                read.namespace_id, hashes, read.first_block, wait_seconds, wait_seconds + lease_seconds
            )
        try:
            if lent.offsets and (lent.num_shards, lent.shard_bytes) != (read.num_shards, read.shard_bytes):
                raise Failure(Reason.INVALID_ARGUMENT, f"a block is {lent.num_shards} x {lent.shard_bytes} bytes")
            async with asyncio.timeout(lease_seconds):
                await self._send(sock, read, lent)
        finally:
            self._source.give_back(lent)

    async def _send(self, sock: socket.socket, read: wire.Read, lent: Lent) -> None:
        share = read.share(len(lent.offsets))
        checksums = [sum_ for i in share for sum_ in lent.checksums[i * lent.num_shards : (i + 1) * lent.num_shards]]
        offer = wire.Offer(len(lent.offsets), checksums)
        await sockets.send_frame(sock, offer, self._limits.stall_seconds)
        if share:
            offsets = [lent.offsets[i] for i in share]
            send = partial(shards.send, sock, self._arena, offsets, read.block_bytes)
            await sockets.in_thread(self._threads, sock, self._limits.stall_seconds, send)
