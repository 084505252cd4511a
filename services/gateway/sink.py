"""Where an answer goes as it is made: to its caller, or onto a tape for several (tape.py)."""

from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from services.gateway.stall import Stall


class Sink(Protocol):
    """One answer's: whole, or opened and then written."""

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        """The answer is this JSON."""
        ...

    async def open(self, headers: Mapping[str, str]) -> None:
        """The answer is a stream."""
        ...

    async def write(self, data: bytes) -> None:
        """The stream's next bytes. Waits while the reader is behind."""
        ...


class Caller:
    """Answers one request, and hangs up on a caller who takes nothing: `stall.check` is to be asked now and then."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._stream: web.StreamResponse | None = None
        self._response: web.StreamResponse | None = None
        self.stall = Stall(self._hang_up)

    @property
    def response(self) -> web.StreamResponse:
        """Once there is an answer."""
        assert self._response is not None, "the request was answered"
        return self._response

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._response = web.Response(body=body, content_type="application/json", headers=headers)

    async def open(self, headers: Mapping[str, str]) -> None:
        self._response = self._stream = web.StreamResponse(headers=headers)
        await self._stream.prepare(self._request)

    async def write(self, data: bytes) -> None:
        if data and self._stream is not None:
            with self.stall.writing():
                await self._stream.write(data)

    def _hang_up(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()  # which cancels the handler
