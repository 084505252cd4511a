"""A way into Legato that notes what each call took."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from bench.drive import Client, Message, Reply, Session
from sim.trace import Call, Program


@dataclass(frozen=True, slots=True)
class Took:
    """One call, in seconds."""

    tokens: int
    whole: float
    """From the client's request to its answer."""
    queued: float
    """In the scheduler and in the engine's own queue."""
    engine: float
    """From the engine's start on it to its last token."""

    @property
    def beside(self) -> float:
        """Neither queue nor engine: client, gateway, worker's service, and the ways between them."""
        return max(0.0, self.whole - self.queued - self.engine)


@dataclass(slots=True)
class Heard:
    """What the clients of a run saw."""

    calls: list[Took] = field(default_factory=list[Took])
    errors: list[str] = field(default_factory=list[str])


class Listening:
    """As `client`, into `heard`."""

    def __init__(self, client: Client, heard: Heard) -> None:
        self.name = client.name
        self._client = client
        self._heard = heard

    @asynccontextmanager
    async def program(self, program: Program) -> AsyncGenerator[Session]:
        async with self._client.program(program) as session:
            yield _Session(session, self._heard)


class _Session:
    def __init__(self, session: Session, heard: Heard) -> None:
        self._session = session
        self._heard = heard

    async def chat(self, call: Call, messages: Sequence[Message]) -> Reply:
        now = asyncio.get_running_loop().time
        began_at = now()
        reply = await self._session.chat(call, messages)
        engine = (reply.prefill_s or 0.0) + (reply.decode_s or 0.0)
        self._heard.calls.append(Took(reply.completion_tokens, now() - began_at, reply.queue_s or 0.0, engine))
        return reply

    def tool(self, call: Call, name: str) -> AbstractAsyncContextManager[object]:
        return self._session.tool(call, name)
