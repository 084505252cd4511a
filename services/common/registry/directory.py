"""The registry: members under `/legato/<cluster>/members/<service>/<id>`, elections under `/legato/<cluster>/leaders/`.

Members announce themselves under a lease, so that a dead process vanishes; others watch. etcd may be away, restart,
or lose its data at any time: announcements and watches then wait, and put themselves right once it answers again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import NoReturn

import grpc

from services.common.registry import election
from services.common.registry.beside import beside
from services.common.registry.client import Client
from services.common.registry.connection import EtcdError, Unavailable
from services.common.registry.election import Candidate, Election, Leader, Leadership
from services.common.registry.lease import LeaseLost, hold, leased
from services.common.registry.membership import Member, Membership
from services.common.registry.view import View, value_of
from services.common.registry.watch import Compacted, watch

logger = logging.getLogger(__name__)


class Registry:
    """Who is there and who leads."""

    def __init__(self, client: Client, root: str, lease_seconds: int) -> None:
        self._client = client
        self._root = root
        self._lease_seconds = lease_seconds

    @asynccontextmanager
    async def announce(self, member: Member) -> AsyncGenerator[None]:
        """Keep the member in the directory during the block; entering waits until it is there, leaving removes it.

        An announcement that is lost (lapsed lease, deleted key, etcd without its data) is made again. EtcdError if
        etcd refuses it, for lack of permission for instance.
        """
        announced = asyncio.Event()
        async with beside(self._keep_announced(member, announced)):
            await announced.wait()
            yield

    async def watch(self, service: str) -> AsyncGenerator[dict[str, Member]]:
        """The members of a service by id: all of them once etcd has answered, and again after each change.

        Changes that come faster than they are read are skipped over: what is yielded is always the latest state.
        While etcd is away nothing is yielded and the last snapshot stays valid. When it is back nobody is dropped for
        one lease time, in which members whose lease was lost announce themselves again (see membership.py). So
        etcd's absence, restart or loss of data never shows as members leaving. Close it (aclosing) to stop watching.
        """
        view = View(Membership(self._lease_seconds))
        shown: dict[str, Member] | None = None
        async with beside(self._follow(self._members_of(service), view)):
            while await view.wait():
                if view.members != shown:
                    shown = dict(view.members)
                    yield dict(shown)

    def lead(self, name: str, id: str, address: str = "", above: int = 0) -> AbstractAsyncContextManager[Leadership]:
        """Wait until `id` leads `name`; resign on leaving. The block must watch `lost` and stop acting then.

        `above`: the latest term that `id` has heard of; its own will be later.
        """
        candidate = Candidate(id, address)
        return election.leading(self._client, self._election(name), candidate, self._lease_seconds, above)

    async def leader(self, name: str) -> Leader | None:
        """Who leads now. `Unavailable` if etcd does not answer."""
        found, _ = await election.leader(self._client, self._election(name))
        return found

    def leaders(self, name: str) -> AsyncGenerator[Leader | None]:
        """Who leads, once etcd has answered and after each change; None: nobody. While etcd is away nothing is yielded
        and the last holds. Close it (aclosing) to stop watching."""
        return election.leaders(self._client, self._election(name), self._lease_seconds / 2)

    async def depose(self, leader: Leader) -> bool:
        """End the lead of one whose process is known to be dead; False: it had ended. `Unavailable`: perhaps done."""
        return await election.depose(self._client, leader)

    def _members_of(self, service: str) -> str:
        return f"{self._root}/members/{_word(service)}/"

    def _election(self, name: str) -> Election:
        return Election(f"{self._root}/leaders/{_word(name)}", f"{self._root}/eras/{_word(name)}")

    async def _keep_announced(self, member: Member, announced: asyncio.Event) -> NoReturn:
        key = self._members_of(member.service) + _word(member.id)
        while True:
            try:
                async with leased(self._client, self._lease_seconds) as lease:
                    revision = await self._client.put(key, value_of(member), lease.id)
                    announced.set()
                    logger.info("announced %s %s", member.service, member.id)
                    await hold(self._client, lease, key, revision)
            except (LeaseLost, Unavailable) as loss:
                logger.warning("announcement of %s %s lost: %s", member.service, member.id, loss)
            except EtcdError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND:  # the lease lapsed before it was used
                    raise

    async def _follow(self, prefix: str, view: View) -> None:
        """Keep `view` as etcd has it. Ends only by a refusal, which the view's reader gets."""
        try:
            while True:
                try:
                    await self._list_and_watch(prefix, view)
                except (Unavailable, Compacted) as loss:
                    logger.warning("directory of %s unknown for now: %s", prefix, loss)
        except EtcdError as refusal:
            view.end(refusal)
        finally:
            view.end()

    async def _list_and_watch(self, prefix: str, view: View) -> None:
        listed_at = await self._list(prefix, view)
        changes = watch(
            self._client.connection, prefix, after=listed_at, silence_seconds=self._lease_seconds / 2, prefix=True
        )
        async with aclosing(changes) as batches:
            async for batch in batches:
                if batch.resumed:  # the server may be another one, or have lost data that new writes cover up
                    listed_at = await self._list(prefix, view)
                view.apply(batch, listed_at)

    async def _list(self, prefix: str, view: View) -> int:
        listing = await self._client.list(prefix)
        view.reset(listing)
        return listing.revision


def _word(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"expected a name without '/', got {name!r}")
    return name
