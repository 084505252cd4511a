"""Leases kept alive: a key written under one vanishes when its owner has been silent for the lease's time."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from services.common.registry.beside import beside
from services.common.registry.client import Client
from services.common.registry.connection import EtcdError, Unavailable
from services.common.registry.watch import Compacted, watch

logger = logging.getLogger(__name__)

REVOKE_SECONDS = 1.0
"""Bound on giving a lease back; it lapses by itself if that fails."""


class LeaseLost(Exception):
    """The lease lapsed, or must be taken as lapsed because no renewal was confirmed in time."""


@dataclass(slots=True)
class Lease:
    """A granted lease."""

    id: int
    ttl_seconds: int
    valid_until: float
    """In the event loop's time, counted from before the request: never later than the server's own verdict."""


@asynccontextmanager
async def leased(client: Client, ttl_seconds: int, *, until_told: bool = False) -> AsyncGenerator[Lease]:
    """A lease for the time of the block: waits for etcd, keeps it alive, revokes it on leaving.

    When it is lost, the block is cancelled and LeaseLost raised. `until_told`: it is lost only when the server says so,
    and goes on being renewed beyond its time while the server says nothing.
    """
    lease = await _grant(client, ttl_seconds)
    try:
        async with beside(_keep_alive(client, lease, until_told)):
            yield lease
    finally:
        with suppress(EtcdError):
            await client.revoke(lease.id, REVOKE_SECONDS)


async def hold(client: Client, lease: Lease, key: str, revision: int) -> NoReturn:
    """Wait, inside `leased`, until the key written at `revision` is deleted; then raise LeaseLost."""
    await deleted(client, lease.ttl_seconds, key, revision)
    raise LeaseLost(f"{key} was deleted")


async def deleted(client: Client, ttl_seconds: int, key: str, revision: int) -> None:
    """Wait until a key that stood at `revision` is deleted."""
    while True:
        try:
            changes = watch(client.connection, key, after=revision, silence_seconds=ttl_seconds / 2)
            async with aclosing(changes) as batches:
                async for batch in batches:
                    if any(change.value is None for change in batch.changes):
                        return
        except Compacted:
            with suppress(Unavailable):
                listing = await client.list(key)
                if all(entry.key != key for entry in listing.entries):
                    return
                revision = listing.revision


async def _grant(client: Client, ttl_seconds: int) -> Lease:
    while True:  # no pause: a grant fails as unavailable only when its own time is up
        asked_at = asyncio.get_running_loop().time()
        try:
            return Lease(await client.grant(ttl_seconds), ttl_seconds, asked_at + ttl_seconds)
        except Unavailable as failure:
            logger.warning("waiting for a lease: %s", failure)


async def _keep_alive(client: Client, lease: Lease, until_told: bool) -> NoReturn:
    try:
        async with asyncio.timeout_at(None if until_told else lease.valid_until) as limit:
            while True:
                await asyncio.sleep(lease.ttl_seconds / 3)
                lease.valid_until = await _renew(client, lease)
                if not until_told:
                    limit.reschedule(lease.valid_until)
    except TimeoutError:
        raise LeaseLost(f"not renewed for {lease.ttl_seconds} s") from None


async def _renew(client: Client, lease: Lease) -> float:
    while True:
        asked_at = asyncio.get_running_loop().time()
        with suppress(Unavailable):
            seconds = await client.renew(lease.id, lease.ttl_seconds / 3)
            if seconds <= 0:
                raise LeaseLost("the server no longer knows the lease")
            return asked_at + seconds
