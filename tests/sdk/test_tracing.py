"""Calls carry the W3C trace context of the program's current span."""

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import legato
from tests.sdk.fake_gateway import FakeGateway


async def test_calls_carry_the_current_span(client: legato.Client, gateway: FakeGateway) -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    async with client.program() as program:
        with trace.use_span(span):
            await program.agent("coder").chat("hi")
        await program.agent("coder").chat("hi")
    traced, plain = gateway.metadata
    assert traced["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert "traceparent" not in plain
