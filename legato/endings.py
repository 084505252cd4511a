"""Ends of programs, told to the cluster so that it can free what it keeps of them.

A program does not wait for long until its end was heard: where the gateway or the scheduler was lost, it is told in the
background for as long as the client waits for one (`reconnect_seconds`). A client that closes gives what was not heard
yet some seconds more, all of it together. Where there never was a gateway, nobody has anything to free. A program that
is opened again has not ended: what was not told by then is not told any more.
"""

import asyncio
import logging
import secrets
import sys

from legato.attempts import Policy
from legato.errors import LegatoError
from legato.transport import Transport
from legato.v1 import gateway_pb2

_log = logging.getLogger(__name__)

_PROGRAM_SECONDS = 1.0
"""For so long a program waits for its own end to be heard."""
_CLOSE_SECONDS = 5.0
"""For so long a client that closes waits for all that were not, and whoever ends a program by hand for that one."""


class Endings:
    """Of one client's programs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Tells the end, by program id."""

    async def tell(self, program_id: str, seconds: float = _CLOSE_SECONDS) -> None:
        """Try as often as it takes in that time. Raises LegatoError."""
        request = gateway_pb2.EndProgramRequest(request_id=secrets.token_hex(8), program_id=program_id)
        await self._transport.unary(lambda stub: stub.EndProgram, request, Policy(sys.maxsize, seconds))

    async def leave(self, program_id: str) -> None:
        """Tell it, now or later. No failure is raised: the program's own outcome matters more than this courtesy."""
        self.take_back(program_id)
        task = asyncio.create_task(self._try(program_id), name=f"end program {program_id}")
        self._tasks[program_id] = task
        task.add_done_callback(lambda _: self._forget(program_id, task))
        await asyncio.wait((task,), timeout=_PROGRAM_SECONDS)
        if task.done() and not task.cancelled():
            task.result()

    def take_back(self, program_id: str) -> None:
        """The program goes on: an end of it that was not heard yet is not told any more."""
        if (task := self._tasks.get(program_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """What was not heard by now never will be."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks.values())
        except TimeoutError:
            pass
        finally:
            late = dict(self._tasks)
            for program_id, task in late.items():
                _log.warning("program %s could not be ended before its client closed", program_id)
                task.cancel()
            await asyncio.gather(*late.values(), return_exceptions=True)

    async def _try(self, program_id: str) -> None:
        patience = max(self._transport.policy.reconnect_seconds, _CLOSE_SECONDS)
        try:
            await self.tell(program_id, patience if self._transport.reached else _PROGRAM_SECONDS)
        except LegatoError as failure:
            _log.warning("program %s could not be ended: %s", program_id, failure)

    def _forget(self, program_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(program_id) is task:
            del self._tasks[program_id]
