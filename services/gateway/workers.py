"""The streams to workers: one Generate stream per worker, opened when the first call goes there.

A worker that has heard of a later term than the one in which a call was placed refuses it: the call has lost its
worker, and whoever placed it is left for the one who leads by now.

Outputs are handed to their calls as they come. When a stream ends, for whatever reason, each call on it is told that
it lost its worker; the next call opens another. Commands that wait to be sent are bounded by the calls: each has at
most a start and an abort on its way.
"""

import asyncio
import itertools
import logging
import uuid
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import grpc

from legato.v1 import worker_pb2, worker_pb2_grpc
from services.common import rpc
from services.common.errors import Failure, Reason
from services.gateway.call import Call
from services.gateway.stream_end import stream_end

_log = logging.getLogger(__name__)

_Stream: TypeAlias = "grpc.aio.StreamStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]"


class Workers:
    """All of them. `tasks` owns the streams; cancelling it ends them. `outgrow` is told of later terms."""

    def __init__(self, tasks: asyncio.TaskGroup, outgrow: Callable[[int], None]) -> None:
        self._tasks = tasks
        self._outgrow = outgrow
        self._links: dict[str, _Link] = {}

    def start(self, address: str, start: worker_pb2.StartCall, call: Call) -> "WorkerSlot":
        """Hand a call to the worker at `address`."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = _Link(address, self._outgrow)
            link.task = self._tasks.create_task(self._keep(link), name=f"worker {address}")
        return link.start(start, call)

    def close(self) -> None:
        """End all streams, and with them whatever still runs on them."""
        for link in self._links.values():
            link.close()

    async def _keep(self, link: "_Link") -> None:
        try:
            await link.run()
        finally:
            del self._links[link.address]
            link.lose()


class WorkerSlot:
    """A call's place on a stream."""

    def __init__(self, link: "_Link", number: int) -> None:
        self._link = link
        self._number = number

    def abort(self) -> None:
        """End the call at the worker; nothing more is heard from it."""
        self._link.abort(self._number)


class _Link:
    def __init__(self, address: str, outgrow: Callable[[int], None]) -> None:
        self.address = address
        self._outgrow = outgrow
        self.task: asyncio.Task[None] | None = None
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._outbox: deque[worker_pb2.GenerateRequest] = deque()
        self._wake = asyncio.Event()

    def start(self, start: worker_pb2.StartCall, call: Call) -> WorkerSlot:
        start.slot = next(self._numbers)
        self._calls[start.slot] = call
        self._send(worker_pb2.GenerateRequest(start=start))
        return WorkerSlot(self, start.slot)

    def abort(self, number: int) -> None:
        if self._calls.pop(number, None) is not None:
            self._send(worker_pb2.GenerateRequest(abort=worker_pb2.AbortCall(slot=number)))

    def lose(self) -> None:
        """Tell every call that is left."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.on_lost()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Converse until the stream ends."""
        try:
            with stream_end(f"worker {self.address}"):
                async with rpc.channel(self.address, "worker") as channel, asyncio.TaskGroup() as tasks:
                    stream: _Stream = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
                    writer = tasks.create_task(self._write(stream))
                    async for response in stream:
                        self._deliver(response)
                    writer.cancel()
            _log.info("worker %s ended its stream", self.address)
        except Failure as failure:
            _log.warning("worker %s lost: %s", self.address, failure)

    async def _write(self, stream: _Stream) -> None:
        while True:
            while self._outbox:
                await stream.write(self._outbox.popleft())
            self._wake.clear()
            await self._wake.wait()

    def _send(self, request: worker_pb2.GenerateRequest) -> None:
        self._outbox.append(request)
        self._wake.set()

    def _deliver(self, response: worker_pb2.GenerateResponse) -> None:
        for output in response.outputs:
            if (last := output.HasField("finish")) and output.finish.term:
                self._outgrow(output.finish.term)
            call = self._calls.pop(output.slot, None) if last else self._calls.get(output.slot)
            if call is not None:
                _hand(call, output)


def _hand(call: Call, output: worker_pb2.CallOutput) -> None:
    """Whatever is wrong with one call's output costs that call alone."""
    try:
        call.on_output(output)
    except Exception:
        error_id = uuid.uuid4().hex[:12]
        _log.exception("error %s on an output of call %s of program %s", error_id, call.key[1], call.key[0])
        call.fail(Failure(Reason.INTERNAL, f"internal error {error_id}", metadata={"error_id": error_id}))
