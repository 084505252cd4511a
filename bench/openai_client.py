"""Programs through the `openai` package, unchanged, as existing agents would run them."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from bench.drive import Message, Reply
from sim.trace import Call, Program

CALL_SECONDS = 600.0
"""Longest call."""


class OpenAIClient:
    """`base_url` ends in /v1; `model` is what to ask for, but calls that name one keep their own.

    Nothing is retried: a refused call is a failure that the run shows.
    """

    name = "openai"

    def __init__(self, base_url: str, model: str, session_header: str = "") -> None:
        """`session_header`: also tell the program's id in this header, as other servers want it."""
        self._base_url = base_url
        self._model = model
        self._session_header = session_header
        self._tls = ssl.create_default_context()

    @asynccontextmanager
    async def program(self, program: Program) -> AsyncGenerator["_Session"]:
        """A client of its own, as programs have that know nothing of each other.

        One for all would also be slow: its pool looks at every connection whenever a request starts or ends. TLS is set
        up once, for it takes 20 ms each time, even if it is never used.
        """
        http = DefaultAsyncHttpxClient(verify=self._tls, timeout=CALL_SECONDS)
        async with AsyncOpenAI(base_url=self._base_url, api_key="none", max_retries=0, http_client=http) as client:
            yield _Session(client, self._model, program.program_id, self._session_header)


@dataclass(frozen=True, slots=True)
class _Session:
    client: AsyncOpenAI
    model: str
    program_id: str
    session_header: str

    async def chat(self, call: Call, messages: Sequence[Message]) -> Reply:
        stream = await self.client.chat.completions.create(
            model=call.model or self.model,
            messages=cast(Any, [{"role": message.role, "content": message.content} for message in messages]),
            max_tokens=call.output_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
            extra_headers=_headers(self.program_id, call, self.session_header),
        )
        first_at: float | None = None
        last: Any = None
        async with stream:
            async for chunk in stream:
                if first_at is None and chunk.choices and chunk.choices[0].delta.content:
                    first_at = asyncio.get_running_loop().time()
                last = chunk
        return _reply(first_at, last)

    def tool(self, call: Call, name: str) -> nullcontext[None]:
        """The OpenAI API has no word for tools that run; Legato sees the gap between two calls."""
        return nullcontext()


def _headers(program_id: str, call: Call, session_header: str) -> dict[str, str]:
    return ({session_header: program_id} if session_header else {}) | {
        "x-legato-program-id": program_id,
        "x-legato-call-id": str(call.id),
        "x-legato-agent": call.agent,
        "x-legato-thread": str(call.thread) if call.thread else "",
        "x-legato-step": call.phase,
        "x-legato-parents": ",".join(map(str, call.parents)),
    }


def _reply(first_at: float | None, last: Any) -> Reply:
    """The last chunk carries the usage and, as a Legato extension, `timings` and `worker_id`."""
    if last is None or last.usage is None:
        raise ValueError("the stream ended without usage")
    timings: dict[str, float] = getattr(last, "timings", None) or {}
    details = last.usage.prompt_tokens_details
    return Reply(
        first_at=first_at,
        prompt_tokens=last.usage.prompt_tokens,
        completion_tokens=last.usage.completion_tokens,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
        queue_s=timings.get("queue_seconds"),
        prefill_s=timings.get("prefill_seconds"),
        decode_s=timings.get("decode_seconds"),
        worker=getattr(last, "worker_id", None),
    )
