"""An answer that several callers want: each hears all of it from its beginning, while it is made and after.

It holds the whole answer, so its size is that of the answer itself.
"""

import asyncio
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict

from services.gateway.sink import Sink
from services.gateway.sse import KEEPALIVE


class _Head(BaseModel):
    """What is kept of an answer beside its body."""

    model_config = ConfigDict(strict=True)

    headers: dict[str, str]
    streamed: bool
    size_bytes: int | None = None
    """Of the body; None: it was kept by a version that does not say."""


class Tape:
    """A Sink that remembers. One writes it, any number `play` it."""

    def __init__(self) -> None:
        self._headers: dict[str, str] | None = None
        self._streamed = False
        self._chunks: list[bytes] = []
        self._over = False
        self._error: Exception | None = None
        self._more = asyncio.get_running_loop().create_future()

    async def whole(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)
        self._chunks.append(body)
        self._wake()

    async def open(self, headers: Mapping[str, str]) -> None:
        self._headers, self._streamed = dict(headers), True
        self._wake()

    async def write(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """There will be no more of it, because of the error if there is one."""
        self._over, self._error = True, error
        self._wake()

    async def play(self, sink: Sink, headers: Mapping[str, str]) -> None:
        """All of it, with more headers, as it comes. Raises what it failed with."""
        while self._headers is None:
            await self._next()
        if not self._streamed:
            await self._end()
            await sink.whole(b"".join(self._chunks), {**self._headers, **headers})
            return
        await sink.open({**self._headers, **headers})
        position = 0
        while position < len(self._chunks) or not self._over:
            if position == len(self._chunks):
                await self._next()
            data, position = b"".join(self._chunks[position:]), len(self._chunks)
            await sink.write(data)
        await self._end()

    def packed(self) -> bytes:
        """As it is kept, but for what only shows that a stream is alive."""
        body = b"".join(chunk for chunk in self._chunks if chunk is not KEEPALIVE)
        head = _Head(headers=self._headers or {}, streamed=self._streamed, size_bytes=len(body))
        return head.model_dump_json().encode() + b"\n" + body

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """One that is over. Raises ValueError for bytes that are none."""
        first, _, body = packed.partition(b"\n")
        head = _Head.model_validate_json(first)
        if head.size_bytes not in (None, len(body)):
            raise ValueError("it is not whole")
        tape = cls()
        tape._headers, tape._streamed, tape._chunks = head.headers, head.streamed, [body]
        tape._over = True
        return tape

    async def _next(self) -> None:
        """Wait for more. Raises what it failed with, if it did."""
        if self._over:
            await self._end()
        else:
            await asyncio.shield(self._more)

    async def _end(self) -> None:
        """Wait until it is over. Raises what it failed with, if it did."""
        while not self._over:
            await asyncio.shield(self._more)
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.get_running_loop().create_future()
        more.set_result(None)
