"""Server-sent events: one answer's output, written as fast as its reader takes it."""

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from services.common.errors import Failure
from services.gateway import metrics
from services.gateway.config import GatewaySection
from services.gateway.openai.answer import DONE, Chunks
from services.gateway.openai.errors import error_body
from services.gateway.run import Run

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
    with _every(section.early_headers_seconds, run.nudge):
        first = await run.next()  # a call that is refused at once is told so by its status
    response = web.StreamResponse(headers={**_HEADERS, **headers})
    await response.prepare(request)
    writer = _Writer(request, response)
    with _every(section.keepalive_seconds, run.nudge), _every(section.stalled_reader_seconds, writer.check):
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
    """Writes to one reader, and hangs up on it when one write lasts from one `check` to the next."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._num_begun = 0
        self._num_done = 0
        self._stuck_at = 0

    async def write(self, data: bytes) -> None:
        """Waits while the reader is behind."""
        if data:
            self._num_begun += 1
            await self._response.write(data)
            self._num_done += 1

    def check(self) -> None:
        waiting = self._num_begun > self._num_done
        if waiting and self._stuck_at == self._num_begun and self._request.transport is not None:
            self._request.transport.abort()  # which cancels the handler
        self._stuck_at = self._num_begun if waiting else 0


@contextmanager
def _every(seconds: float, action: Callable[[], None]) -> Generator[None]:
    """Do `action` again and again while inside."""
    loop = asyncio.get_running_loop()

    def act() -> None:
        nonlocal timer
        timer = loop.call_later(seconds, act)
        action()

    timer = loop.call_later(seconds, act)
    try:
        yield
    finally:
        timer.cancel()
