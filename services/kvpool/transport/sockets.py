"""Sockets of the data plane: frames on the event loop, bytes of blocks in threads.

Sockets do not block but while `in_thread` has them. There the kernel copies straight between socket and arena, and the
kernel's own timeouts find a peer that stalls.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from services.kvpool.transport import wire

T = TypeVar("T")

_TIMEVAL: Final = struct.Struct("ll")
_MAX_VIEWS: Final = 512
"""In one system call; Linux takes 1024."""


class Closed(ConnectionError):
    """The peer ended the connection."""


def prepare(sock: socket.socket) -> socket.socket:
    """Set up a connected socket. Buffer sizes stay the kernel's to tune: fixed ones measured no faster."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def send_frame(sock: socket.socket, frame: wire.Frame, stall_seconds: float) -> None:
    """Raises OSError, TimeoutError and WireError."""
    async with asyncio.timeout(stall_seconds):
        await asyncio.get_running_loop().sock_sendall(sock, wire.encode(frame))


async def read_frame(sock: socket.socket, wait_seconds: float, stall_seconds: float) -> wire.Frame:
    """The next frame, which begins within `wait_seconds`. Raises OSError, Closed, TimeoutError and WireError."""
    header = bytearray(wire.HEADER_BYTES)
    async with asyncio.timeout(wait_seconds):
        await _read(sock, memoryview(header)[:1])
    async with asyncio.timeout(stall_seconds):
        await _read(sock, memoryview(header)[1:])
        kind, num_bytes = wire.decode_header(header)
        payload = bytearray(num_bytes)
        await _read(sock, memoryview(payload))
    return wire.decode(kind, bytes(payload))


async def _read(sock: socket.socket, view: memoryview) -> None:
    loop = asyncio.get_running_loop()
    while view:
        num_bytes = await loop.sock_recv_into(sock, view)
        if not num_bytes:
            raise Closed("closed by the peer")
        view = view[num_bytes:]


async def in_thread(executor: Executor, sock: socket.socket, stall_seconds: float, work: Callable[[], T]) -> T:
    """Run `work`, which blocks on the socket, in a thread that is through with it when this returns or raises.

    When cancelled it shuts the socket down, which wakes the thread, and waits for the thread: its memory may be
    another block's a moment later.
    """
    sock.setblocking(True)
    timeout = _TIMEVAL.pack(int(stall_seconds), int(stall_seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    finally:
        if not future.done():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            await outlast([future])
        sock.setblocking(False)


async def outlast(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all are done, whatever happens; a cancellation meanwhile goes on after that."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [future for future in futures if not future.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def send_all(sock: socket.socket, views: Sequence[memoryview]) -> None:
    """Blocks. Raises OSError, and TimeoutError when the peer takes nothing."""
    _transfer(views, sock.sendmsg)


def receive_all(sock: socket.socket, views: Sequence[memoryview]) -> None:
    """Blocks until all are full. Raises OSError, Closed, and TimeoutError when nothing comes."""
    _transfer(views, lambda part: sock.recvmsg_into(part, 0, socket.MSG_WAITALL)[0])


def _transfer(views: Sequence[memoryview], call: Callable[[list[memoryview]], int]) -> None:
    for first in range(0, len(views), _MAX_VIEWS):
        part = list(views[first : first + _MAX_VIEWS])
        while part:
            try:
                num_bytes = call(part)
            except BlockingIOError:  # the kernel's timeout, without a byte
                raise TimeoutError("the peer stalls") from None
            if not num_bytes:
                raise Closed("closed by the peer")
            part = _after(part, num_bytes)


def _after(views: list[memoryview], num_bytes: int) -> list[memoryview]:
    for i, view in enumerate(views):
        if num_bytes < len(view):
            return [view[num_bytes:], *views[i + 1 :]]
        num_bytes -= len(view)
    return []
