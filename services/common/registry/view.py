"""A service's members as one task learns them and one reader waits for them."""

import asyncio
import json
import logging
from typing import cast

from services.common.registry.client import Listing
from services.common.registry.connection import EtcdError
from services.common.registry.membership import Member, Membership
from services.common.registry.watch import Batch

logger = logging.getLogger(__name__)


def value_of(member: Member) -> bytes:
    """What a member's key holds; the rest of the member is in the key."""
    return json.dumps({"address": member.address, "metadata": dict(member.metadata)}).encode()


class View:
    """A membership that one task writes and one generator reads; the generator also keeps its time."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._now = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._ended = False
        self._error: EtcdError | None = None

    @property
    def members(self) -> dict[str, Member]:
        return self._membership.members

    def reset(self, listing: Listing) -> None:
        """The whole directory, at first or after an absence of etcd."""
        members = (_member(entry.key, entry.value) for entry in listing.entries)
        self._membership.reset({member.id: member for member in members if member}, self._now())
        self._changed.set()

    def apply(self, batch: Batch, listed_at: int) -> None:
        """Changes; those that the list at revision `listed_at` already had are skipped."""
        for change in batch.changes:
            if change.revision <= listed_at:
                continue
            if change.value is None:
                self._membership.drop(_id(change.key), self._now())
            elif member := _member(change.key, change.value):
                self._membership.put(member)
        self._changed.set()

    def end(self, error: EtcdError | None = None) -> None:
        """Nothing more will come; the reader gets the error, if any."""
        self._ended = True
        self._error = self._error or error
        self._changed.set()

    async def wait(self) -> bool:
        """Until something may have changed. False: it ended; raises what it ended with."""
        try:
            async with asyncio.timeout_at(self._membership.next_tick()):
                await self._changed.wait()
        except TimeoutError:
            self._membership.tick(self._now())
        self._changed.clear()
        if self._error:
            raise self._error
        return not self._ended


def _member(key: str, value: bytes) -> Member | None:
    service, id = key.split("/")[-2:]
    try:
        record = cast("dict[str, object]", json.loads(value))
        metadata = cast("dict[str, str]", record["metadata"])
        return Member(service, id, str(record["address"]), dict(metadata))
    except (ValueError, KeyError, TypeError):
        logger.warning("ignored %s: not a member's record", key)
        return None


def _id(key: str) -> str:
    return key.rpartition("/")[2]
