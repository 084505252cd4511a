"""Finding the scheduler that leads: each one that is registered is tried in turn; those that do not lead say so."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import NoReturn

from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry
from services.gateway.schedule import Scheduler

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


class Leader:
    """Keeps `scheduler` in conversation with whichever scheduler leads."""

    def __init__(self, registry: Registry, scheduler: Scheduler) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._members: Mapping[str, Member] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._follow())

    async def _watch(self) -> None:
        async with aclosing(self._registry.watch("scheduler")) as snapshots:
            async for members in snapshots:
                self._members = members
                self._changed.set()

    async def _follow(self) -> NoReturn:
        now = asyncio.get_running_loop().time
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._changed.clear()
            for member in list(self._members.values()):
                began = now()
                await self._converse(member)
                if now() - began > _LONGEST_PAUSE_SECONDS:
                    pause = _FIRST_PAUSE_SECONDS
            await self._change_within(pause if self._members else None)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _converse(self, member: Member) -> None:
        try:
            await self._scheduler.converse(member.address)
            _log.info("scheduler %s ended the stream", member.id)
        except Failure as failure:
            expected = failure.reason is Reason.NOT_LEADER
            _log.log(logging.INFO if expected else logging.WARNING, "scheduler %s: %s", member.id, failure)

    async def _change_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
