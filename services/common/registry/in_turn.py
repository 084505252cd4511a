"""One member at a time: whichever of a service's instances will have us, and the next one when it no longer does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import NoReturn

from services.common.backoff import Backoff
from services.common.registry.directory import Registry
from services.common.registry.membership import Member

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


class InTurn:
    """`attend` is with one member for as long as that lasts, and says whether it was worth it: then the next attempts
    come soon."""

    def __init__(self, registry: Registry, service: str, attend: Callable[[Member], Awaitable[bool]]) -> None:
        self._registry = registry
        self._service = service
        self._attend = attend
        self._members: Mapping[str, Member] = {}
        self._first = ""
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._go_round())

    def prefer(self, id: str) -> None:
        """Try this one first, and now if nobody is attended to."""
        if id != self._first:
            self._first = id
            self._changed.set()

    async def _watch(self) -> None:
        async with aclosing(self._registry.watch(self._service)) as snapshots:
            async for members in snapshots:
                self._members = members
                self._changed.set()

    async def _go_round(self) -> NoReturn:
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            self._changed.clear()
            for name in sorted(self._members, key=lambda name: (name != self._first, name)):
                if (member := self._members.get(name)) is not None and await self._attend(member):
                    backoff.reset()
            if await self._change_within(backoff.next_seconds() if self._members else None):
                backoff.reset()

    async def _change_within(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
