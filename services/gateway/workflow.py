"""The workflow service, as far as clients may ask it through the gateway. Any instance that is registered will do."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.common.registry import Member, Registry

_EXPLAIN_SECONDS = 25.0
"""The log may have to be read again for it."""
_GRACE_SECONDS = 2.0
"""Where none answers: how long to wait for one that is about to start, or to come back."""
_ELSEWHERE = (Reason.UNAVAILABLE, Reason.DRAINING, Reason.DEADLINE_EXCEEDED)
"""Another instance may do better."""


class Workflow:
    """Knows the instances while `run` runs. Questions are rare, so each has a channel of its own."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._members: Mapping[str, Member] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises EtcdError if the registry refuses us."""
        async with aclosing(self._registry.watch("workflow")) as snapshots:
            async for members in snapshots:
                self._members = members
                self._changed.set()
                self._changed = asyncio.Event()

    async def explain(self, request: workflow_pb2.ExplainRequest) -> workflow_pb2.ExplainResponse:
        """Raises Failure: NO_WORKFLOW when none answers."""
        async with aclosing(self._instances()) as instances:
            async for member in instances:
                try:
                    async with rpc.channel(member.address, "workflow") as channel:
                        stub = workflow_pb2_grpc.WorkflowServiceStub(channel)
                        return await stub.Explain(request, timeout=_EXPLAIN_SECONDS)
                except grpc.aio.AioRpcError as error:
                    _go_on(error)
        raise _no_workflow()

    async def read_log(self, request: workflow_pb2.ReadLogRequest) -> AsyncGenerator[workflow_pb2.ReadLogResponse]:
        """Raises Failure: NO_WORKFLOW when none answers, or the one that did goes away."""
        async with aclosing(self._instances()) as instances:
            async for member in instances:
                begun = False
                try:
                    async with rpc.channel(member.address, "workflow") as channel:
                        async for response in workflow_pb2_grpc.WorkflowServiceStub(channel).ReadLog(request):
                            begun = True
                            yield response
                    return
                except grpc.aio.AioRpcError as error:
                    _go_on(error)
                    if begun:  # from the beginning again, it would be told twice
                        break
        raise _no_workflow()

    async def _instances(self) -> AsyncGenerator[Member]:
        """Each that there is; then, for a while, each that comes."""
        until = asyncio.get_running_loop().time() + _GRACE_SECONDS
        tried: set[str] = set()
        while True:
            changed = self._changed
            for name, member in list(self._members.items()):
                if name not in tried:
                    tried.add(name)
                    yield member
            try:
                async with asyncio.timeout_at(until):
                    await changed.wait()
            except TimeoutError:
                return


def _go_on(error: grpc.aio.AioRpcError) -> None:
    failure = rpc.failure_from(error)
    if failure.reason not in _ELSEWHERE:
        raise failure from None


def _no_workflow() -> Failure:
    return Failure(Reason.NO_WORKFLOW, "no workflow service answers", retry_after_seconds=1.0)
