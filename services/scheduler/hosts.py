"""What another process's address tells of it without talking to it: is it this host's, does nobody listen there?

A name may stand for several addresses, of which the process listens on some.
"""

import asyncio
import errno
import socket
from typing import Any

_CONNECT_SECONDS = 1.0
_FOREIGN = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""What our own host says of its own address in a kind of network that it has no part in."""

_Found = tuple[socket.AddressFamily, tuple[Any, ...]]


async def ours(address: str) -> bool:
    """Whether host:port is on this host."""
    for family, (host, _, *rest) in await _resolved(address):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((host, 0, *rest))
        except OSError:
            continue
        return True
    return False


async def refused(address: str) -> bool:
    """Whether the host is there and says, at each of its addresses, that nobody listens.

    Those of a kind of network in which we have no address at all do not count. Any other that is out of reach may be so
    for the moment, and listened at.
    """
    near = [found for found in await _resolved(address) if _spoken(found[0])]
    answers = set(await asyncio.gather(*(_knock(*found) for found in near)))
    return answers == {errno.ECONNREFUSED}


async def _resolved(address: str) -> list[_Found]:
    """All that the name stands for; none if nobody knows in time."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # TimeoutError is the first; the second is for what is no address
        return []
    return [(family, where) for family, _, _, _, where in found]


def _spoken(family: socket.AddressFamily) -> bool:
    """Whether this host has an address of that family, if only the one by which it calls itself."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    except OSError as error:
        return error.errno not in _FOREIGN
    return True


async def _knock(family: socket.AddressFamily, where: tuple[Any, ...]) -> int:
    """The error number with which a connection fails; 0: it does not."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as knocking:
            knocking.setblocking(False)
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(knocking, where)
    except OSError as error:
        return error.errno or errno.ETIMEDOUT
    return 0
