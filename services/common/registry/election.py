"""Leader election: the candidate whose key is oldest leads, the next waits for that key to go.

etcd's own recipe and key layout (`<prefix>/<lease in hex>`), so that its tools can watch or take part. The revision at
which the leader's key was made only grows from leader to leader: it is the fencing token.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from services.common.registry.beside import beside
from services.common.registry.client import Client, Entry
from services.common.registry.connection import EtcdError, Unavailable
from services.common.registry.lease import Lease, LeaseLost, deleted, leased

RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leadership:
    """Being the leader."""

    token: int
    """Fencing token: greater than that of any leader before."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when leadership ended, or could not be confirmed for a lease's time. It does not come back."""


@asynccontextmanager
async def leading(client: Client, prefix: str, value: bytes, ttl_seconds: int) -> AsyncGenerator[Leadership]:
    """Wait until elected; resign on leaving. The block is not interrupted when leadership is lost: watch `lost`."""
    elected: asyncio.Future[Leadership] = asyncio.get_running_loop().create_future()
    async with beside(_candidate(client, prefix, value, ttl_seconds, elected)):
        yield await elected


async def leader(client: Client, prefix: str) -> Entry | None:
    """The leader's key, if there is a leader."""
    entries = (await client.list(f"{prefix}/")).entries
    return min(entries, key=lambda entry: entry.create_revision, default=None)


async def _candidate(
    client: Client, prefix: str, value: bytes, ttl_seconds: int, elected: "asyncio.Future[Leadership]"
) -> None:
    """Stand for election, with a new lease whenever one is lost; once elected, lead until that is lost."""
    while not elected.done():
        try:
            async with leased(client, ttl_seconds) as lease:
                mine = await _campaign(client, prefix, value, lease)
                if elected.cancelled():
                    return
                leadership = Leadership(mine.create_revision)
                elected.set_result(leadership)
                try:
                    await deleted(client, ttl_seconds, mine.key, mine.mod_revision)
                finally:
                    leadership.lost.set()  # before the lease is given back, which may take its time
        except LeaseLost as loss:
            logger.warning("%s: %s", prefix, loss)


async def _campaign(client: Client, prefix: str, value: bytes, lease: Lease) -> Entry:
    """Enter the queue of candidates and wait until first in it. Returns the own key."""
    mine = await _enter(client, f"{prefix}/{lease.id:x}", value, lease)
    while True:
        try:
            listing = await client.list(f"{prefix}/")
        except Unavailable:
            continue  # it took its time before it failed
        if mine not in listing.entries:
            raise LeaseLost(f"{mine.key} was deleted")
        before = [entry for entry in listing.entries if entry.create_revision < mine.create_revision]
        if not before:
            return mine
        nearest = max(before, key=lambda entry: entry.create_revision)
        await deleted(client, lease.ttl_seconds, nearest.key, listing.revision)


async def _enter(client: Client, key: str, value: bytes, lease: Lease) -> Entry:
    while True:
        try:
            _, mine = await client.cas(key, value, mod_revision=0, lease=lease.id)
        except Unavailable:  # perhaps done; asking again finds the key if so
            await asyncio.sleep(RETRY_SECONDS)
            continue
        except EtcdError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                raise LeaseLost("the server no longer knows the lease") from error
            raise
        if mine is None:
            raise LeaseLost(f"{key} was deleted")
        return mine
