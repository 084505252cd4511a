"""Finding the scheduler that leads: the registry says who it is; where it does not, each one is tried in turn."""

import asyncio
import logging
from contextlib import aclosing

from services.common.errors import Failure
from services.common.registry import InTurn, Member, Registry
from services.gateway.schedule import Scheduler

_log = logging.getLogger(__name__)

_WORTH_SECONDS = 1.0
"""Whoever conversed for so long led."""


class Leader:
    """Keeps `scheduler` in conversation with whichever scheduler leads."""

    def __init__(self, registry: Registry, scheduler: Scheduler) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._schedulers = InTurn(registry, "scheduler", self._converse)

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._schedulers.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> None:
        """Be with a new leader at once, before the one before it, or our stream to it, has ended."""
        async with aclosing(self._registry.leaders("scheduler")) as leaders:
            async for leader in leaders:
                if leader is not None:
                    self._schedulers.prefer(leader.id)
                    self._scheduler.outgrow(leader.term, leader.address)

    async def _converse(self, member: Member) -> bool:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            await self._scheduler.converse(member.address)
            _log.info("scheduler %s ended the stream", member.id)
        except Failure as failure:
            _log.info("scheduler %s: %s", member.id, failure)
        return now() - began > _WORTH_SECONDS
