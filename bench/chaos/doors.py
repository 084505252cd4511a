"""The two ways in: the SDK, and plain HTTP as any client of the OpenAI API would stream.

The SDK is expected to get over the loss of its gateway by itself. An HTTP client gets an honest error or a broken
stream, and asks again under the same idempotency key until its answer is whole, as long as its patience lasts. Now and
then it asks once more though it was: what it gets must be the same.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

import legato
from bench.chaos.record import Listening, OnceMore, Record
from bench.chaos.reference import Question
from bench.chaos.stream import Heard, reason

PATIENCE_SECONDS = 120.0
_CONNECT_SECONDS = 3.0
_SILENT_SECONDS = 10.0
"""A stream without even a keep-alive for so long is dead."""
_CUT = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)
_PAUSE_SECONDS = 0.3
_ONCE_MORE = 4
"""Of so many calls of a program, one is asked again when it has ended."""
_BUSY = (409, 425, 429, 500, 502, 503, 504)
"""A later try may succeed. 409: the call's earlier try still lives there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    call_id: str
    text: str
    num_tokens: int
    num_restarts: int
    ended: float
    """When it was whole, in the event loop's time."""


class Talk(Protocol):
    """One program, through one door."""

    async def ask(self, question: Question, branch: str) -> Answer:
        """Run a call to its end."""
        ...


class Door(Protocol):
    """A way in."""

    @property
    def name(self) -> str: ...

    def program(self, program_id: str) -> AbstractAsyncContextManager[Talk]:
        """The program is live while inside."""
        ...


class SdkDoor:
    """Through one client for all programs."""

    name = "sdk"

    def __init__(self, client: legato.Client, record: Record) -> None:
        self._client = client
        self._record = record

    @asynccontextmanager
    async def program(self, program_id: str) -> AsyncGenerator["SdkTalk"]:
        async with self._client.program(program_id) as program:
            yield SdkTalk(program, self._record)


class SdkTalk:
    """Streams; nothing is tried again here."""

    def __init__(self, program: legato.Program, record: Record) -> None:
        self._program = program
        self._record = record

    async def ask(self, question: Question, branch: str) -> Answer:
        now = asyncio.get_running_loop().time
        agent = self._program.agent(branch or "main", max_tokens=question.max_tokens)
        options: Any = {"temperature": 0.0, "ignore_eos": True}
        if question.seed is not None:
            options |= {"temperature": 1.0, "seed": question.seed}
        if question.choices:
            options = {"temperature": 0.0, "response_choices": question.choices}
        conversation = [{"role": message.role, "content": message.content} for message in question.messages]
        listening, num_tokens, text = Listening(self._record, "sdk"), 0, ""
        async with agent.stream(conversation, **options) as stream:
            async for piece in stream:
                listening.heard(now())
                num_tokens += piece.num_tokens
                text += piece.text
        reply = stream.reply
        if text != reply.text:
            self._record.wrong.append(f"{self._program.id}/{stream.call_id}: pieces differ from the reply")
        return Answer(stream.call_id, text, num_tokens, reply.timings.restarts, now())


class HttpDoor:
    """Through the gateways in turn, the next one after each failure."""

    name = "http"

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str], model: str, record: Record) -> None:
        self._session = session
        self._addresses = addresses
        self._model = model
        self._record = record
        self._num_programs = 0

    @asynccontextmanager
    async def program(self, program_id: str) -> AsyncGenerator["HttpTalk"]:
        self._num_programs += 1
        self._record.num_unended += 1
        yield HttpTalk(self._session, self._addresses, self._model, self._record, program_id, self._num_programs)


class _Again(Exception):
    """It failed in a way that another try may not. `after_seconds`: as the server said."""

    def __init__(self, why: str, after_seconds: float = _PAUSE_SECONDS) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


class HttpTalk:
    """One program's calls, numbered."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        addresses: Sequence[str],
        model: str,
        record: Record,
        program_id: str,
        turn: int,
    ) -> None:
        self._session = session
        self._addresses = addresses
        self._model = model
        self._record = record
        self._program_id = program_id
        self._turn = turn
        self._num_calls = 0

    async def ask(self, question: Question, branch: str) -> Answer:
        self._num_calls += 1
        number, call_id = self._num_calls, f"call-{self._num_calls}"
        answer, num_tries = await self._answer(question, call_id, branch)
        if number % _ONCE_MORE == 0:
            await self._once_more(question, branch, answer, num_tries)
        return answer

    async def _once_more(self, question: Question, branch: str, answer: Answer, num_tries: int) -> None:
        """Ask again what was answered in so many tries."""
        now = asyncio.get_running_loop().time
        asked = now()
        try:
            again, _ = await self._answer(question, answer.call_id, branch)
        finally:
            once_more = OnceMore(self._program_id, answer.call_id, num_tries, asked, now())
            self._record.once_more.append(once_more)
        if (again.text, again.num_tokens) != (answer.text, answer.num_tokens):
            said = f"{again.text!r} the second time, and {answer.text!r} the first"
            self._record.misended.append(f"{self._program_id}/{answer.call_id}: {said}")

    async def _answer(self, question: Question, call_id: str, branch: str) -> tuple[Answer, int]:
        """Ask until it is whole, and in how many tries."""
        listening, tries = Listening(self._record, "http"), list[Heard]()
        now = asyncio.get_running_loop().time
        give_up_at = now() + PATIENCE_SECONDS
        try:
            while True:
                tries.append(Heard())
                try:
                    await self._try(question, call_id, branch, listening, tries[-1])
                    break
                except _Again as again:
                    if now() > give_up_at:
                        raise
                    self._record.repeats.append((now(), "http", str(again)))
                    self._turn += 1
                    await asyncio.sleep(again.after_seconds)
        finally:
            self._judge(f"{self._program_id}/{call_id} (http)", tries)
        whole = tries[-1]
        return Answer(call_id, whole.text, whole.num_tokens or 0, whole.num_restarts, now()), len(tries)

    def _judge(self, name: str, tries: Sequence[Heard]) -> None:
        """What tries of a call said that does not belong. Each must be the beginning of the one that was whole or, if
        none was, of the longest."""
        self._record.misended += [f"{name}: {odd}" for heard in tries for odd in heard.odd]
        answer = max(tries, key=lambda heard: (heard.whole, len(heard.text)))
        self._record.wrong += [
            f"{name}: a try that was cut off said {heard.text!r}, and the longest answer is {answer.text!r}"
            for heard in tries
            if not answer.text.startswith(heard.text)
        ]

    async def _try(self, question: Question, call_id: str, branch: str, listening: Listening, heard: Heard) -> None:
        """Hear all of an answer. Raises _Again."""
        address = self._addresses[self._turn % len(self._addresses)]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        headers = {
            "Idempotency-Key": f"{self._program_id}/{call_id}",
            "x-legato-program-id": self._program_id,
            "x-legato-call-id": call_id,
            "x-legato-agent": branch or "main",
            "x-legato-thread": branch,
        }
        url = f"http://{address}/v1/chat/completions"
        try:
            async with self._session.post(url, json=self._body(question), headers=headers, timeout=timeout) as response:
                if response.status in _BUSY:
                    raise _Again(f"{response.status} {reason(await response.json())}", _after(response))
                response.raise_for_status()
                await _read(response, listening, heard)
        except _CUT as error:
            raise _Again(type(error).__name__) from error

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "max_tokens": question.max_tokens,
            "temperature": 0.0 if question.seed is None else 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.seed is not None:
            body["seed"] = question.seed
        return body | ({"guided_choice": question.choices} if question.choices else {"ignore_eos": True})


async def _read(response: aiohttp.ClientResponse, listening: Listening, heard: Heard) -> None:
    """The stream to where it is closed: nothing may come behind its end. Raises _Again for one that is not whole."""
    now = asyncio.get_running_loop().time
    try:
        async for line in response.content:
            if line.startswith(b"data: ") and heard.take(line[len(b"data: ") :].strip()):
                listening.heard(now())
    except _CUT:
        if not heard.whole:
            raise
    if heard.error:
        raise _Again(f"stream: {heard.error}")
    if not heard.whole:
        raise _Again("stream cut off")


def _after(response: aiohttp.ClientResponse) -> float:
    try:
        return min(float(response.headers.get("Retry-After", "")), 2.0)
    except ValueError:
        return _PAUSE_SECONDS
