"""Following the workflow service: its forecasts, as they are made.

All instances learn the same from the same log, so any of them will do: one stream is held until it ends, then the next
instance is tried. A cluster without a workflow service is as one whose service says nothing.
"""

import logging
from collections.abc import Callable, Sequence

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import foretold, rpc
from services.common.foretold import Foretold
from services.common.registry import InTurn, Member, Registry

_log = logging.getLogger(__name__)


class Forecaster:
    """Whoever foretells. `take` gets what is foretold. A stream that ends means nothing: what was said holds until it
    expires. When another one begins, `anew` is told: what it says first is all that is in force."""

    def __init__(
        self, registry: Registry, take: Callable[[Sequence[Foretold]], None], anew: Callable[[], None]
    ) -> None:
        self._take = take
        self._anew = anew
        self._num_streams = 0
        self._instances = InTurn(registry, "workflow", self._listen)

    async def run(self) -> None:
        """Follow until cancelled. Raises EtcdError if the registry refuses us."""
        await self._instances.run()

    async def _listen(self, member: Member) -> bool:
        """Hold one stream until it ends; whether it said anything."""
        heard = False
        async with rpc.channel(member.address, "workflow") as channel:
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
