"""What surrounds every RPC handler: failures become statuses, bugs become error ids, traces are continued.

A `Failure` (alone, or leading an exception group) ends the RPC with its rich status. Any other exception is logged with
its traceback and ends it INTERNAL with an error id; a cancellation that is not the RPC's own (a call raises it whose
channel is closed meanwhile) ends it UNAVAILABLE. RPCs with one request get a span, but for those that last as long as
their peers do; a stream of requests multiplexes many calls, so it gets none, but runs in its caller's trace context. A
handler's generator is closed in the RPC's own task: whatever its `finally` does has happened when the RPC is over.

It also counts live RPCs, for draining: gRPC's own graceful stop ends RPCs that come late with CANCELLED or UNAVAILABLE
as it happens, and answers no health check. RPCs of gRPC itself (health, reflection) are neither counted nor refused;
one whose only request has not come yet is not counted.
A guard is asked before each handler, and before the first byte of a request is taken off the wire: gRPC itself reads
the one request of a unary RPC whole, whoever sends it, so ours are served as streams and read it when they may.
"""

import asyncio
import contextlib
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import context as trace_context
from opentelemetry.trace import Span, SpanKind, StatusCode

from services.common import rpc, telemetry
from services.common.access import Guard
from services.common.errors import Failure, Reason

_log = logging.getLogger(__name__)

# Messages and handlers are of any type here: this is below the generated, typed stubs.
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_KINDS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}

_ENDLESS = ("/Watch", "/Attend")
"""What the names of RPCs begin with that end with one of the peers."""


class Boundary(grpc.aio.ServerInterceptor):
    """The server interceptor. `guard`: says who may call what; None: everybody may call everything."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard
        self._num_live = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def drain(self) -> None:
        """From now on new RPCs fail with DRAINING. Returns when those under way have ended."""
        self._draining = True
        if self._num_live:
            await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name, rebuild = _KINDS[handler.request_streaming, handler.response_streaming]
        method = handler_call_details.method
        ours = not method.startswith("/grpc.")
        spanned = ours and not (handler.request_streaming or any(name in method for name in _ENDLESS))
        traceparent = _traceparent(handler_call_details)
        behavior: Behavior = getattr(handler, name)
        if handler.response_streaming and not inspect.iscoroutinefunction(behavior):
            behavior = _written(behavior)
        unread = ours and not handler.request_streaming
        if unread:
            _, rebuild = _KINDS[True, handler.response_streaming]

        async def guarded(request: Any, context: Context) -> Any:
            with _traced(method, traceparent, spanned) as span:
                try:
                    if not ours:
                        return await behavior(request, context)
                    self._let_in(method, context)
                    if unread:
                        request = await _read(context)
                    with self._counted(), _cancelled_by_grpc_alone(method):
                        return await behavior(request, context)
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    failure = _failure(error, method)
                    _mark(span, failure)
            return await rpc.abort(context, failure)

        return rebuild(guarded, handler.request_deserializer, handler.response_serializer)

    def _let_in(self, method: str, context: Context) -> None:
        """Raises Failure."""
        if self._guard is not None:
            self._guard(method, context)
        if self._draining:
            raise _draining()

    @contextlib.contextmanager
    def _counted(self) -> Generator[None]:
        """A live RPC. One whose request came too late is none: raises Failure."""
        if self._draining:
            raise _draining()
        self._num_live += 1
        try:
            yield
        finally:
            self._num_live -= 1
            if self._draining and not self._num_live:
                self._idle.set()


def _draining() -> Failure:
    return Failure(Reason.DRAINING, "the service is about to stop")


async def _read(context: Context) -> Any:
    """The one request of an RPC that is served as if it sent a stream of them; on the wire that is the same."""
    try:
        request = await context.read()
    except DecodeError:
        raise Failure(Reason.INVALID_ARGUMENT, "what was sent is no request of this method") from None
    if request is grpc.aio.EOF:
        raise Failure(Reason.INVALID_ARGUMENT, "the RPC ended before its request")
    return request


@contextlib.contextmanager
def _cancelled_by_grpc_alone(method: str) -> Generator[None]:
    """gRPC takes a CancelledError for the end of the RPC and tells the client nothing, whoever it was meant for."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        _log.warning("%s was cancelled by what it waited for", method, exc_info=error)
        raise Failure(Reason.UNAVAILABLE, "what the service waited for was cancelled") from None


def _written(generator: Callable[[Any, Context], Any]) -> Behavior:
    """A handler that yields its responses as one that writes them, and closes the generator whatever happens."""

    async def write(request: Any, context: Context) -> None:
        async with contextlib.aclosing(generator(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write


def _traceparent(details: grpc.HandlerCallDetails) -> str:
    for key, value in details.invocation_metadata or ():
        if key == telemetry.TRACEPARENT:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return ""


@contextlib.contextmanager
def _traced(method: str, traceparent: str, spanned: bool) -> Generator[Span | None]:
    parent = telemetry.context_from(traceparent)
    if not spanned:
        token = trace_context.attach(parent)
        try:
            yield None
        finally:
            trace_context.detach(token)
        return
    service, _, name = method.lstrip("/").partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    with telemetry.tracer().start_as_current_span(
        f"{service}/{name}", parent, SpanKind.SERVER, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


def _failure(error: Exception, method: str) -> Failure:
    expected = _expected(error)
    if expected is not None:
        return expected
    error_id = uuid.uuid4().hex[:12]
    _log.error("error %s in %s", error_id, method, exc_info=error)
    return Failure(Reason.INTERNAL, f"internal error {error_id}", metadata={"error_id": error_id})


def _expected(error: Exception) -> Failure | None:
    """The failure that `error` is or, if it is a group of nothing but failures, the first of them."""
    match error:
        case Failure():
            return error
        case ExceptionGroup(exceptions=[*members]):
            found = [_expected(member) for member in members]
            return None if None in found else found[0]
        case _:
            return None


def _mark(span: Span | None, failure: Failure) -> None:
    if span is not None:
        span.set_attribute("error.type", failure.reason.name)
        if failure.reason.http_status >= 500:
            span.set_status(StatusCode.ERROR, failure.reason.name)
