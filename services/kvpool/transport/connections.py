"""Connections to peers, kept between pulls; addresses that failed a moment ago are left alone."""

import asyncio
import ipaddress
import socket
from collections import defaultdict, deque
from typing import Any, Final

from services.kvpool.transport import sockets
from services.kvpool.transport.greeting import Greeting
from services.kvpool.transport.limits import PullLimits

_MAX_IDLE: Final = 8
"""Connections kept for each address."""


class Connections:
    """Those that no pull uses."""

    def __init__(self, limits: PullLimits, greeting: Greeting) -> None:
        self._greeting = greeting
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[str, deque[tuple[float, socket.socket]]] = defaultdict(deque)
        """By address; when each was last used, oldest first."""
        self._paused: dict[str, float] = {}
        """Until when."""
        self._timer: asyncio.TimerHandle | None = None

    def paused(self, address: str) -> bool:
        """The address failed a moment ago."""
        now = self._loop.time()
        self._paused = {address: until for address, until in self._paused.items() if until > now}
        return address in self._paused

    def pause(self, address: str) -> None:
        """The address failed: what is kept of it is as bad."""
        self._paused[address] = self._loop.time() + self._limits.pause_seconds
        for _, sock in self._idle.pop(address, ()):
            sock.close()

    def take(self, address: str) -> socket.socket | None:
        """A connection that is still open, as far as can be seen."""
        idle = self._idle.get(address)
        while idle:
            _, sock = idle.pop()
            if _quiet(sock):
                return sock
            sock.close()
        return None

    async def connect(self, address: str) -> socket.socket:
        """A new connection to a peer that has proved to be one. Raises OSError (TimeoutError), and ValueError for what
        is no host:port."""
        host, _, port = address.rpartition(":")
        if not 0 < int(port) < 1 << 16:
            raise ValueError(f"port {port}")
        async with asyncio.timeout(self._limits.connect_seconds):
            family, where = await self._find(host.strip("[]"), int(port))
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sockets.prepare(sock)
                await self._loop.sock_connect(sock, where)
                await self._greeting.exchange(sock, self._limits.connect_seconds)
            except BaseException:
                sock.close()
                raise
            return sock

    async def _find(self, host: str, port: int) -> tuple[int, tuple[Any, ...]]:
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return found[0][0], found[0][4]
        return socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port)

    def keep(self, address: str, sock: socket.socket) -> None:
        """The exchange on this connection ended well."""
        idle = self._idle[address]
        idle.append((self._loop.time(), sock))
        if len(idle) > _MAX_IDLE:
            idle.popleft()[1].close()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.idle_seconds, self._expire)

    def close(self) -> None:
        """All that are idle."""
        if self._timer is not None:
            self._timer.cancel()
        for idle in self._idle.values():
            for _, sock in idle:
                sock.close()
        self._idle.clear()

    def _expire(self) -> None:
        oldest = self._loop.time() - self._limits.idle_seconds
        for address, idle in list(self._idle.items()):
            while idle and idle[0][0] <= oldest:
                idle.popleft()[1].close()
            if not idle:
                del self._idle[address]
        self._timer = self._loop.call_later(self._limits.idle_seconds, self._expire) if self._idle else None


def _quiet(sock: socket.socket) -> bool:
    """Nothing waits to be read: between exchanges that would be the peer's end, or a peer that does not know rules."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
