"""WorkerService over one engine: calls in, outputs of a step out as one batch, load and cache told to watchers.

It obeys the latest term that it has heard of (docs/decisions/0015): what was decided in an earlier one is refused.
"""

from __future__ import annotations  # for FinishReason.ValueType, which only the stubs have

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from opentelemetry.trace import Span

from legato.v1 import call_pb2, kv_pb2, worker_pb2, worker_pb2_grpc
from services.common import telemetry
from services.common.errors import Failure, Reason
from services.common.terms import plausible
from services.worker import metrics
from services.worker.engine import Engine, EngineCall, Output
from services.worker.streams import OutputStream, Watcher

_S = TypeVar("_S", OutputStream, Watcher)


@dataclass(slots=True)
class _Route:
    stream: OutputStream
    slot: int
    span: Span


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Also the engine's listener. Everything runs on the event loop's thread."""

    def __init__(self, engine: Engine, report_interval_seconds: float) -> None:
        self._engine = engine
        self._interval = report_interval_seconds
        self._keys = itertools.count(1)
        self._routes: dict[int, _Route] = {}
        self._streams: set[OutputStream] = set()
        self._watchers: set[Watcher] = set()
        self._description = worker_pb2.WorkerDescription()
        self._load = worker_pb2.Load()
        self._blocks: dict[int, None] = {}
        self._term = 0
        """The latest that was heard of."""
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: Failure | None = None

    def describe(self, description: worker_pb2.WorkerDescription) -> None:
        """The engine is up: this is what it says of itself."""
        self._description = description

    async def drain(self, timeout_seconds: float) -> None:
        """Take no more calls, and wait for the running ones at most so long."""
        self._draining = True
        self.on_load(self._load)
        for watcher in self._watchers:
            watcher.hurry()  # a call placed here from now on is lost
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()

    def end(self, failure: Failure) -> None:
        """End all streams with the failure, now and from now on."""
        self._ended = failure
        self._idle.set()
        for stream in (*self._streams, *self._watchers):
            stream.fail(failure)

    # The engine's listener.

    def on_outputs(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            route = self._routes.get(output.key)
            if route is None:
                continue  # its stream has ended
            route.stream.put(route.slot, output.message)
            if output.message.HasField("finish"):
                self._count(output.message.finish.usage)
                self._ended_with(output.key, output.message.finish.reason)

    def on_load(self, load: worker_pb2.Load) -> None:
        self._load = load
        load.draining = self._draining
        for watcher in self._watchers:
            watcher.load(load)
        worker = self._description.worker_id
        metrics.RUNNING.labels(worker).set(load.num_running)
        metrics.WAITING.labels(worker).set(load.num_waiting)
        metrics.KV_USAGE.labels(worker).set(load.kv_usage)
        metrics.PREEMPTIONS.labels(worker).set(load.num_preemptions)

    def on_cache(self, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        if reset:
            self._blocks.clear()
        self._blocks.update(dict.fromkeys(stored))
        for block in removed:
            self._blocks.pop(block, None)
        for watcher in self._watchers:
            watcher.cache(stored, removed, reset)

    def _count(self, usage: call_pb2.Usage) -> None:
        worker = self._description.worker_id
        metrics.PROMPT_TOKENS.labels(worker).inc(usage.prompt_tokens)
        metrics.CACHED_TOKENS.labels(worker).inc(usage.cached_tokens)
        metrics.OUTPUT_TOKENS.labels(worker).inc(usage.completion_tokens)

    # The service.

    async def Describe(
        self, request: worker_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.DescribeResponse:
        return worker_pb2.DescribeResponse(description=self._description)

    async def SetRole(
        self, request: worker_pb2.SetRoleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.SetRoleResponse:
        if self._ended is not None:
            raise self._ended
        if request.role not in kv_pb2.WorkerRole.values():
            raise Failure(Reason.INVALID_ARGUMENT, f"role: {request.role} is none", "role")
        self._obey(request.term)
        self._description.role = request.role or kv_pb2.WORKER_ROLE_BOTH
        for watcher in self._watchers:
            watcher.describe(self._description)
            watcher.hurry()  # placements by the old role serve the new one badly
        return worker_pb2.SetRoleResponse()

    async def Generate(  # pyright: ignore[reportIncompatibleMethodOverride] (grpc.aio also takes handlers that write)
        self,
        request_iterator: AsyncIterator[worker_pb2.GenerateRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        stream = OutputStream()
        with self._among(stream, self._streams):
            try:
                async with asyncio.TaskGroup() as tasks:
                    reader = tasks.create_task(self._read(request_iterator, stream))
                    while (batch := await stream.take()) is not None:
                        await context.write(batch)
                    reader.cancel()
            finally:
                for key in list(stream.live.values()):
                    self._engine.abort(key)
                    self._ended_with(key, call_pb2.FINISH_REASON_ABORT)

    async def Watch(
        self, request: worker_pb2.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[worker_pb2.WatchResponse]:
        self._obey(request.term)
        cache = worker_pb2.CacheUpdate(reset=True, stored=self._blocks)
        first = worker_pb2.WatchResponse(description=self._description, load=self._load, cache=cache)
        watcher = Watcher(first, request.term)
        with self._among(watcher, self._watchers):
            while True:
                yield await watcher.take()
                # Paces the stream: what changes meanwhile is merged. A failure or the drain comes at once.
                await watcher.pause(self._interval)

    async def _read(self, requests: AsyncIterator[worker_pb2.GenerateRequest], stream: OutputStream) -> None:
        async for request in requests:
            if request.HasField("start"):
                self._start(request.start, stream)
            elif request.HasField("prioritize"):
                if (key := stream.live.get(request.prioritize.slot)) is not None:
                    self._engine.prioritize(key, request.prioritize.priority)
            elif (key := stream.live.get(request.abort.slot)) is not None:
                self._engine.abort(key)
        stream.close()

    def _start(self, start: worker_pb2.StartCall, stream: OutputStream) -> None:
        if start.slot in stream.live:
            raise Failure(Reason.INVALID_ARGUMENT, f"slot {start.slot} is in use", "slot")
        if (refusal := self._refusal(start.term)) is not None:
            finish = worker_pb2.Finish(
                reason=call_pb2.FINISH_REASON_ERROR,
                error_reason=refusal.reason.name,
                error_message=refusal.message,
                term=int(refusal.metadata.get("term", 0)),
            )
            stream.put(start.slot, worker_pb2.CallOutput(offset=start.num_resumed_tokens, finish=finish))
            return
        key = next(self._keys)
        span = telemetry.tracer().start_span("engine", telemetry.context_from(start.traceparent))
        stream.live[start.slot] = key
        self._routes[key] = _Route(stream, start.slot, span)
        self._idle.clear()
        self._engine.submit(EngineCall(key, start))

    def _refusal(self, term: int) -> Failure | None:
        """Why a call of that term is not begun."""
        if self._draining:
            return Failure(Reason.DRAINING, "the worker takes no new calls")
        try:
            self._obey(term)
        except Failure as stale:
            return stale
        return None

    def _obey(self, term: int) -> None:
        """Somebody acts in that term; 0: it is not known. Raises Failure when it is over."""
        if 0 < term < self._term:
            message = f"term {term} is over: there is a term {self._term}"
            raise Failure(Reason.STALE_TERM, message, metadata={"term": str(self._term)})
        if not plausible(term, self._term):
            raise Failure(Reason.INVALID_ARGUMENT, f"term: {term} cannot be, the latest is {self._term}", "term")
        if term > self._term:
            self._term = term
            stale = Failure(Reason.STALE_TERM, f"there is a term {term}", metadata={"term": str(term)})
            for watcher in self._watchers:
                if 0 < watcher.term < term:
                    watcher.fail(stale)

    def _ended_with(self, key: int, reason: call_pb2.FinishReason.ValueType) -> None:
        route = self._routes.pop(key, None)
        if route is None:
            return
        del route.stream.live[route.slot]
        route.span.set_attribute("legato.finish_reason", call_pb2.FinishReason.Name(reason))
        route.span.end()
        metrics.CALLS.labels(self._description.worker_id, call_pb2.FinishReason.Name(reason)).inc()
        if not self._routes:
            self._idle.set()

    @contextmanager
    def _among(self, stream: _S, streams: set[_S]) -> Generator[None]:
        """Let `end` reach the stream."""
        if self._ended is not None:
            raise self._ended
        streams.add(stream)
        try:
            yield
        finally:
            streams.discard(stream)
