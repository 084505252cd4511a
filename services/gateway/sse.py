"""Server-sent events: one answer's output, written as fast as its reader takes it."""

from collections.abc import Mapping
from typing import Final

from services.common.errors import Failure
from services.gateway import metrics
from services.gateway.config import GatewaySection
from services.gateway.eta import headers_of
from services.gateway.openai.answer import DONE, Chunks
from services.gateway.openai.errors import error_body
from services.gateway.run import Run
from services.gateway.sink import Sink
from services.gateway.stall import every

KEEPALIVE: Final = b": keep-alive\n\n"
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


async def stream(
    run: Run, chunks: Chunks, headers: Mapping[str, str], section: GatewaySection, sink: Sink
) -> Failure | None:
    """Write the whole output of `run`. Raises Failure as long as nothing was written; later it is an event, and what is
    returned."""
    with every(section.early_headers_seconds, run.nudge):
        first = await run.next()  # a call that is refused at once is told so by its status
    await sink.open({**_HEADERS, **headers, **headers_of(run.eta)})
    with every(section.keepalive_seconds, run.nudge):
        try:
            await sink.write(chunks.opening(run.num_calls) + (chunks.piece(*first) if first else b""))
            while not run.over:
                item = await run.next()
                await sink.write(chunks.piece(*item) if item else KEEPALIVE)
            await sink.write(chunks.closing(run.usage(), run.endings))
        except Failure as failure:
            metrics.ERRORS.labels("http", failure.reason.name.lower()).inc()
            await sink.write(f"data: {error_body(failure)}\n\n".encode() + DONE)
            return failure
    return None
