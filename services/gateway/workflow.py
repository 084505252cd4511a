"""The workflow service, as far as clients may ask it through the gateway. Any instance that is registered will do."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry

_EXPLAIN_SECONDS = 25.0
"""The log may have to be read again for it."""
_ELSEWHERE = (Reason.UNAVAILABLE, Reason.DRAINING, Reason.DEADLINE_EXCEEDED)
"""Another instance may do better."""


class Workflow:
    """Knows the instances while `run` runs. Questions are rare, so each has a channel of its own."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._members: Mapping[str, Member] = {}

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        async with aclosing(self._registry.watch("workflow")) as snapshots:
            async for members in snapshots:
                self._members = members

    async def explain(self, request: workflow_pb2.ExplainRequest) -> workflow_pb2.ExplainResponse:
        """Raises Failure: NO_WORKFLOW when none answers."""
        for member in list(self._members.values()):
            try:
                async with rpc.channel(member.address) as channel:
                    stub = workflow_pb2_grpc.WorkflowServiceStub(channel)
                    return await stub.Explain(request, timeout=_EXPLAIN_SECONDS)
            except grpc.aio.AioRpcError as error:
                _go_on(error)
        raise _no_workflow()

    async def read_log(self, request: workflow_pb2.ReadLogRequest) -> AsyncGenerator[workflow_pb2.ReadLogResponse]:
        """Raises Failure: NO_WORKFLOW when none answers, or the one that did goes away."""
        for member in list(self._members.values()):
            begun = False
            try:
                async with rpc.channel(member.address) as channel:
                    async for response in workflow_pb2_grpc.WorkflowServiceStub(channel).ReadLog(request):
                        begun = True
                        yield response
                return
            except grpc.aio.AioRpcError as error:
                _go_on(error)
                if begun:  # from the beginning again, it would be told twice
                    break
        raise _no_workflow()


def _go_on(error: grpc.aio.AioRpcError) -> None:
    failure = rpc.failure_from(error)
    if failure.reason not in _ELSEWHERE:
        raise failure from None


def _no_workflow() -> Failure:
    return Failure(Reason.NO_WORKFLOW, "no workflow service answers", retry_after_seconds=1.0)
