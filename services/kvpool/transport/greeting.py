"""Pools that have identities prove them to each other before the first frame of a connection, by a TLS handshake.

Nothing of TLS is left after that: frames and blocks travel as they are, so that the kernel copies them between socket
and arena as fast as it can. A stranger gets nothing; who can read or change what is on the wire between two pools can
do so still (docs/threat-model.md).
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from services.common import tls
from services.common.access import DATA_PLANE
from services.common.tls import Identity
from services.kvpool.transport.sockets import Closed

_BELIEVED: Final = b"1"
"""The server's word that the client may begin: a client is done with TLS 1.3 before its certificate was looked at."""
_READ_BYTES: Final = 64 * 1024


class Greeting:
    """What one end says. `own`: None: nothing, and all are believed."""

    def __init__(self, own: Identity | None, *, server: bool) -> None:
        self._own = own
        self._server = server
        self._contexts = own and tls.contexts(own, server=server)

    async def exchange(self, sock: socket.socket, timeout_seconds: float) -> None:
        """Greet. Raises OSError: an SSLError or PermissionError for a peer that is not to be believed, Closed by one
        that does not believe us, TimeoutError."""
        if self._own is None or self._contexts is None:
            return
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        spoken = self._contexts.now().wrap_bio(incoming, outgoing, server_side=self._server)
        async with asyncio.timeout(timeout_seconds):
            await _drive(sock, incoming, outgoing, spoken.do_handshake)
            peer = tls.service_of(spoken.getpeercert(), self._own.cluster)
            if peer not in DATA_PLANE:
                raise PermissionError(f"{peer or 'a stranger'} is no KV pool")
            if self._server:
                await _drive(sock, incoming, outgoing, lambda: spoken.write(_BELIEVED))
            else:
                await _drive(sock, incoming, outgoing, lambda: spoken.read(len(_BELIEVED)))
            if incoming.pending:
                raise PermissionError("the peer spoke before its turn")


async def _drive(
    sock: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, step: Callable[[], object]
) -> None:
    """Take the step, with as many bytes to and fro as it needs."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            step()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                await loop.sock_sendall(sock, outgoing.read())  # the alert that tells the peer why
            raise
        else:
            done = True
        await loop.sock_sendall(sock, outgoing.read())
        if done:
            return
        received = await loop.sock_recv(sock, _READ_BYTES)
        if not received:
            raise Closed("closed by the peer while it was greeted")
        incoming.write(received)
