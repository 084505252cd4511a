"""Logs, traces and metrics of one process.

`configure` sets up logging to stderr and the process's tracer; in a process of several services the first call counts
and names the resource, later ones change nothing. Spans leave the process only when `otlp_endpoint` is set. Metrics
are prometheus_client objects in its default registry, which also measures the process itself.
"""

import contextlib
import logging
import os
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from services.common import access, tls
from services.common.config import TelemetrySection
from services.common.logs import CALL, JsonFormatter, TextFormatter

TRACEPARENT: Final = "traceparent"
_EXPORT_SECONDS: Final = 3.0  # also how much longer the process lives when the collector is away
_W3C: Final = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class _Configured:
    provider: TracerProvider
    handler: logging.Handler


_configured: _Configured | None = None


def configure(section: TelemetrySection, service: str) -> None:
    """Start logging and tracing as `service`. Does nothing when the process is already configured."""
    global _configured  # what logs and traces is the process, so this is the process's one piece of state
    if _configured is not None:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if section.log_format == "json" else TextFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(section.log_level.upper())
    _configured = _Configured(_provider(section, service), handler)


def shutdown() -> None:
    """Send what spans are left and stop logging. The process may be configured again."""
    global _configured  # see configure
    if _configured is None:
        return
    _configured.provider.shutdown()
    logging.getLogger().removeHandler(_configured.handler)
    _configured = None


def _provider(section: TelemetrySection, service: str) -> TracerProvider:
    instance = f"{socket.gethostname()}-{os.getpid()}"
    resource = Resource.create({"service.name": service, "service.instance.id": instance})
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(section.sample_ratio)))
    if section.otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=section.otlp_endpoint, insecure=True, timeout=_EXPORT_SECONDS)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def tracer() -> trace.Tracer:
    """The process's tracer; one that records nothing before `configure`. A span costs some 40 us: never one a token."""
    return trace.NoOpTracer() if _configured is None else _configured.provider.get_tracer("legato")


def current_traceparent() -> str:
    """The current span as a W3C `traceparent`; empty when there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def context_from(traceparent: str) -> Context:
    """The context in which a new span is a child of `traceparent`; an empty context when that is empty or malformed."""
    return _W3C.extract({TRACEPARENT: traceparent}, Context())


@contextlib.contextmanager
def call_context(program_id: str, call_id: str) -> Generator[None]:
    """Names the call in every log record made inside."""
    token = CALL.set((program_id, call_id))
    try:
        yield
    finally:
        CALL.reset(token)


async def metrics(request: web.Request) -> web.Response:
    """The aiohttp handler of a /metrics route."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})


def _for_operators(own: tls.Identity) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def checked(request: web.Request) -> web.Response:
        caller = tls.service_of(request.get_extra_info("peercert"), own.cluster)
        if caller not in access.METRICS:
            raise web.HTTPForbidden(reason=f"not for {caller or 'strangers'}: show the certificate of an operator")
        return await metrics(request)

    return checked


@contextlib.asynccontextmanager
async def serve_metrics(host: str, port: int, ready: Callable[[], bool] = lambda: True) -> AsyncGenerator[int]:
    """Serve /metrics, and /readyz: 200 while `ready`, else 503; yields the port (which is another when `port` is 0).

    A process with an identity (tls.assume) serves them over TLS, and /metrics to operators only."""
    own = tls.own()

    async def tell_readiness(_: web.Request) -> web.Response:
        return web.Response(status=200 if ready() else 503)

    app = web.Application()
    app.router.add_get("/metrics", metrics if own is None else _for_operators(own))
    app.router.add_get("/readyz", tell_readiness)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        context = None if own is None else tls.listening(tls.contexts(own, server=True).now)
        if context is not None:
            context.verify_mode = ssl.CERT_OPTIONAL  # probes of /readyz have none
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
