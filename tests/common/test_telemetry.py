"""Logs, traces and metrics as they leave the process."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Export
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse as Exported
from prometheus_client import Counter

from services.common import rpc, telemetry
from services.common.config import TelemetrySection
from services.common.errors import Failure, Reason
from services.common.logs import JsonFormatter, TextFormatter
from tests.common.probe import ENDLESS, NAME, probe

log = logging.getLogger("services.test")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def collector() -> AsyncGenerator[tuple[str, list[Export]]]:
    """An OTLP collector: its address and what it was sent."""
    received: list[Export] = []

    async def export(request: Export, _: Any) -> Exported:
        received.append(request)
        return Exported()

    handler = grpc.unary_unary_rpc_method_handler(export, Export.FromString, Exported.SerializeToString)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", received
    finally:
        await server.stop(None)


@pytest.fixture
def configured():
    telemetry.configure(TelemetrySection(), "test")
    yield
    telemetry.shutdown()


@pytest.fixture
def logged():
    """What is logged, formatted as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("gateway"))
    log.addHandler(handler)
    log.setLevel("INFO")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)


def trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1] if traceparent else ""


async def seen_by_handler(kind: str, metadata: tuple[tuple[str, str], ...]) -> str:
    async def act(_: bytes) -> bytes:
        return telemetry.current_traceparent().encode()

    async with probe(act) as client:
        return (await client.call(kind, metadata=metadata)).decode()


@pytest.mark.usefixtures("configured")
async def test_a_trace_goes_on_in_the_server():
    with telemetry.tracer().start_as_current_span("client"):
        ours = telemetry.current_traceparent()
        for kind in ("unary_unary", "unary_stream"):
            theirs = await seen_by_handler(kind, rpc.trace_metadata())
            assert trace_id(theirs) == trace_id(ours)
            assert theirs != ours, "the server has a span of its own"


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream", *ENDLESS])
async def test_a_stream_of_many_calls_or_without_end_has_its_callers_context_and_no_span(kind: str):
    assert await seen_by_handler(kind, (("traceparent", PARENT),)) == PARENT


@pytest.mark.usefixtures("configured")
async def test_a_malformed_traceparent_starts_a_new_trace():
    assert len(await seen_by_handler("unary_unary", (("traceparent", "rubbish"),))) == len(PARENT)


def test_without_a_span_there_is_nothing_to_pass_on():
    assert telemetry.current_traceparent() == ""
    assert rpc.trace_metadata() == ()
    with telemetry.tracer().start_as_current_span("recorded by nobody"):
        assert telemetry.current_traceparent() == ""


async def test_spans_reach_the_collector_with_their_parent_and_service():
    async def refuse(_: bytes) -> bytes:
        raise Failure(Reason.NO_WORKER, "none")

    async with collector() as (address, received):
        telemetry.configure(TelemetrySection(otlp_endpoint=address), "gateway")
        telemetry.configure(TelemetrySection(), "scheduler")  # the same process: changes nothing
        async with probe(refuse) as client:
            with pytest.raises(grpc.aio.AioRpcError):
                await client.call("unary_unary", metadata=(("traceparent", PARENT),))
        async with asyncio.timeout(10):
            await asyncio.to_thread(telemetry.shutdown)
    (resource_spans,) = received[0].resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
    (span,) = resource_spans.scope_spans[0].spans
    assert resource["service.name"] == "gateway"
    assert resource["service.instance.id"]
    assert span.name == f"{NAME}/unary_unary"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    assert span.status.message == "NO_WORKER"


def test_a_log_line_names_the_call_it_is_about(logged: Any):
    with telemetry.call_context("program", "call"):
        log.info("inside %d", 1)
    log.info("outside")
    inside, outside = logged()
    assert inside.items() >= {
        "level": "info", "logger": "services.test", "message": "inside 1", "service": "gateway",
        "program_id": "program", "call_id": "call",
    }.items()  # fmt: skip
    assert inside["ts"].endswith("+00:00")
    assert "program_id" not in outside


async def test_calls_of_concurrent_tasks_are_kept_apart(logged: Any):
    turn = asyncio.Barrier(2)

    async def work(call_id: str) -> None:
        with telemetry.call_context("p", call_id):
            await turn.wait()
            log.info("from %s", call_id)

    await asyncio.gather(work("one"), work("two"))
    assert {line["message"] for line in logged()} == {"from one", "from two"}
    assert all(line["message"] == f"from {line['call_id']}" for line in logged())


@pytest.mark.usefixtures("configured")
def test_a_log_line_names_its_span(logged: Any):
    with telemetry.tracer().start_as_current_span("work"):
        log.info("here")
        traceparent = telemetry.current_traceparent()
    (line,) = logged()
    assert traceparent.startswith(f"00-{line['trace_id']}-{line['span_id']}-")


def test_an_exception_stays_on_its_log_line(logged: Any):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")
    (line,) = logged()
    assert "Traceback" in line["exception"]
    assert "two\nlines" in line["exception"]


def test_text_logs_are_one_line_with_the_call():
    record = logging.LogRecord("services.test", logging.WARNING, "", 0, "slow %s", ("engine",), None)
    with telemetry.call_context("p1", "c1"):
        assert TextFormatter().format(record).endswith(" WARNING services.test slow engine program_id=p1 call_id=c1")


async def test_metrics_are_served_as_prometheus_text():
    Counter("legato_test_things", "Things.").inc(3)
    async with telemetry.serve_metrics("127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
        assert response.content_type == "text/plain"
    assert "legato_test_things_total 3.0" in text
    assert "process_resident_memory_bytes" in text


async def test_readiness_is_asked_anew_each_time():
    ready = False
    async with telemetry.serve_metrics("127.0.0.1", 0, lambda: ready) as port, aiohttp.ClientSession() as session:
        for ready in (False, True, False):
            async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                assert response.status == (200 if ready else 503)
