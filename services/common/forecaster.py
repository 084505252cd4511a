"""Following the workflow service: its forecasts, as they are made.

All instances learn the same from the same log, so any of them will do: one stream is held until it ends, then the next
instance is tried. A cluster without a workflow service is as one whose service says nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import NoReturn

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import foretold, rpc
from services.common.foretold import Foretold
from services.common.registry import Member, Registry

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


class Forecaster:
    """Whoever foretells. `take` gets what is foretold. A stream that ends means nothing: what was said holds until it
    expires. When another one begins, `anew` is told: what it says first is all that is in force."""

    def __init__(
        self, registry: Registry, take: Callable[[Sequence[Foretold]], None], anew: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._take = take
        self._anew = anew
        self._num_streams = 0
        self._members: Mapping[str, Member] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled. Raises EtcdError if the registry refuses us."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._follow())

    async def _watch(self) -> None:
        async with aclosing(self._registry.watch("workflow")) as snapshots:
            async for members in snapshots:
                self._members = members
                self._changed.set()

    async def _follow(self) -> NoReturn:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._changed.clear()
            for name in sorted(self._members):
                if (member := self._members.get(name)) is not None and await self._listen(member):
                    pause = _FIRST_PAUSE_SECONDS
            await self._change_within(pause if self._members else None)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _listen(self, member: Member) -> bool:
        """Hold one stream until it ends; whether it said anything."""
        heard = False
        async with rpc.channel(member.address) as channel:
            stream = workflow_pb2_grpc.WorkflowServiceStub(channel).WatchForecasts(workflow_pb2.WatchForecastsRequest())
            try:
                async for response in stream:
                    if not heard:
                        heard = True
                        self._begin(member)
                    self._take([foretold.read(message) for message in response.forecasts])
            except grpc.aio.AioRpcError as error:
                _log.info("workflow service %s: %s", member.id, rpc.failure_from(error))
            finally:
                stream.cancel()
        return heard

    def _begin(self, member: Member) -> None:
        _log.info("forecasts come from %s", member.id)
        self._num_streams += 1
        if self._num_streams > 1:
            self._anew()

    async def _change_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
