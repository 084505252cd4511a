"""Server-sent events: one answer's output, written as fast as its reader takes it."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from services.common.errors import Failure
from services.gateway import metrics
from services.gateway.config import GatewaySection
from services.gateway.eta import headers_of
from services.gateway.openai.answer import DONE, Chunks
from services.gateway.openai.errors import error_body
from services.gateway.run import Run
from services.gateway.stall import Stall, every

_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_KEEPALIVE: Final = b": keep-alive\n\n"


async def stream(
    request: web.Request, run: Run, chunks: Chunks, headers: Mapping[str, str], section: GatewaySection
) -> web.StreamResponse:
    """Write the whole output of `run`. Raises Failure as long as nothing was written; later it is an event."""
    with every(section.early_headers_seconds, run.nudge):
        first = await run.next()  # a call that is refused at once is told so by its status
    response = web.StreamResponse(headers={**_HEADERS, **headers, **headers_of(run.eta)})
    await response.prepare(request)
    writer = _Writer(request, response)
    with every(section.keepalive_seconds, run.nudge), every(section.stalled_reader_seconds, writer.stall.check):
        try:
            await writer.write(chunks.opening(run.num_calls) + (chunks.piece(*first) if first else b""))
            while not run.over:
                item = await run.next()
                await writer.write(chunks.piece(*item) if item else _KEEPALIVE)
            await writer.write(chunks.closing(run.usage(), run.endings))
        except Failure as failure:
            metrics.ERRORS.labels("http", failure.reason.name.lower()).inc()
            await writer.write(f"data: {error_body(failure)}\n\n".encode() + DONE)
    return response


class _Writer:
    """Writes to one reader, and hangs up on it when it takes nothing."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self.stall = Stall(self._hang_up)

    async def write(self, data: bytes) -> None:
        """Waits while the reader is behind."""
        if data:
            with self.stall.writing():
                await self._response.write(data)

    def _hang_up(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()  # which cancels the handler
