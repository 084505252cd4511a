"""Finding the scheduler that leads: each one that is registered is tried in turn; those that do not lead say so."""

import asyncio
import logging

from services.common.errors import Failure, Reason
from services.common.registry import InTurn, Member, Registry
from services.gateway.schedule import Scheduler

_log = logging.getLogger(__name__)

_WORTH_SECONDS = 1.0
"""Whoever conversed for so long led."""


class Leader:
    """Keeps `scheduler` in conversation with whichever scheduler leads."""

    def __init__(self, registry: Registry, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._schedulers = InTurn(registry, "scheduler", self._converse)

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        await self._schedulers.run()

    async def _converse(self, member: Member) -> bool:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            await self._scheduler.converse(member.address)
            _log.info("scheduler %s ended the stream", member.id)
        except Failure as failure:
            expected = failure.reason is Reason.NOT_LEADER
            _log.log(logging.INFO if expected else logging.WARNING, "scheduler %s: %s", member.id, failure)
        return now() - began > _WORTH_SECONDS
