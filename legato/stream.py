"""One running call."""

import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc

from legato.attempts import Attempts
from legato.errors import InternalError, error_from, gateway_gone
from legato.received import Received
from legato.reply import Assembly, Piece, Reply
from legato.thread import Front, Thread
from legato.transport import Gateway, Transport
from legato.v1 import gateway_pb2

_OVERDUE_SECONDS = 0.001
"""What is left of a deadline that has passed: 0 would be none."""


class Stream:
    """The output of a call as it comes: `async with agent.stream(...) as stream: async for piece in stream: ...`.

    The call starts on entering. Leaving before the end aborts it down to the engine. After the end `reply` holds the
    whole answer, and the thread's next call follows this one. When its gateway dies it goes on at another one.
    """

    def __init__(
        self,
        transport: Transport,
        thread: Thread,
        request: gateway_pb2.ChatRequest,
        deadline_seconds: float | None,
        due: float | None,
    ) -> None:
        """`due`: when the program is wanted complete, on `time.monotonic`'s clock."""
        self._transport = transport
        self._thread = thread
        self._request = request
        self._deadline_seconds = deadline_seconds
        self._due = due
        self._front: Front = {}
        self._assembly = Assembly(request.identity.program_id, request.identity.call_id)
        self._received = Received()
        self._attempts: Attempts | None = None
        self._gateway: Gateway | None = None
        self._call: grpc.aio.UnaryStreamCall[gateway_pb2.ChatRequest, gateway_pb2.ChatResponse] | None = None
        self._events: AsyncIterator[gateway_pb2.ChatResponse] | None = None
        self._gave = False
        """Whether this try brought output."""
        self._reply: Reply | None = None

    @property
    def call_id(self) -> str:
        return self._request.identity.call_id

    @property
    def reply(self) -> Reply:
        """The whole answer. Raises RuntimeError before the stream has ended."""
        if self._reply is None:
            raise RuntimeError("the stream has not ended yet")
        return self._reply

    async def finish(self) -> Reply:
        """Read what is left and return the whole answer. Raises LegatoError."""
        async for _ in self:
            pass
        return self.reply

    async def __aenter__(self) -> Self:
        if self._attempts is not None:
            raise RuntimeError("a stream is entered once")
        self._front = self._thread.front
        self._request.identity.parents[:] = self._front
        self._attempts = Attempts(self._transport.policy, self._deadline_seconds)
        await self._start(self._attempts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._call is not None:
            self._call.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if self._attempts is None:
            raise RuntimeError("a stream is read inside `async with`")
        while self._events is not None:
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                self._end()
            except grpc.aio.AioRpcError as error:
                await self._recover(self._attempts, error)
            else:
                if piece := self._take(self._attempts, event):
                    return piece
        raise StopAsyncIteration

    async def _start(self, attempts: Attempts) -> None:
        gateway = self._gateway = await self._transport.gateway(attempts)
        if self._due is not None:
            self._request.program_deadline_seconds = max(_OVERDUE_SECONDS, self._due - time.monotonic())
        self._received.ask(self._request)
        self._gave = False
        self._call = gateway.stub.Chat(self._request, timeout=attempts.remaining_seconds(), metadata=gateway.metadata())
        self._events = aiter(self._call)

    def _take(self, attempts: Attempts, event: gateway_pb2.ChatResponse) -> Piece | None:
        self._received.add(event)
        self._transport.heard(attempts)
        piece = self._assembly.add(event)
        if piece is not None:
            self._gave = True
        if event.HasField("finish"):
            self._gave = True
            self._reply = self._assembly.finish(event.finish)
            identity = self._request.identity
            self._thread.advance(self._front, {identity.call_id: identity.agent})
        return piece

    def _end(self) -> None:
        self._events = None
        if self._reply is None:
            raise InternalError(f"call {self.call_id} ended without a finish")

    async def _recover(self, attempts: Attempts, error: grpc.aio.AioRpcError) -> None:
        """Start again if this try brought nothing, or go on where a lost gateway was; otherwise raise what the failure
        means."""
        self._events = None
        if self._reply is not None:
            return  # the answer was complete; how the RPC closed after it does not matter
        assert self._gateway is not None, "an RPC has a gateway"
        over = self._gave and not gateway_gone(error_from(error))
        await self._transport.recover(attempts, self._gateway, error, final=over or not self._received.resumable)
        await self._start(attempts)
