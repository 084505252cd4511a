"""The HTTP door: the OpenAI API, health and metrics.

Whatever goes wrong is answered in the API's own shape. A client that goes away cancels its handler, which aborts its
calls down to the engine.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from legato.v1 import gateway_pb2
from services.common import telemetry
from services.common.errors import Failure, Reason
from services.gateway import access, urgency
from services.gateway import identity as identities
from services.gateway.access import Keys
from services.gateway.boundary import HEADERS, boundary
from services.gateway.calls import Calls
from services.gateway.content import contents_of
from services.gateway.eta import headers_of
from services.gateway.idempotency import HEADER, Answers, Key, key_of
from services.gateway.identity import NOTHING_SAID, Identity, Resolved, Resolver
from services.gateway.openai.answer import Answered, ChatShape, Chunks, CompletionShape, Shape, whole
from services.gateway.openai.chat import parse_chat
from services.gateway.openai.completions import parse_completion
from services.gateway.openai.fields import Generation
from services.gateway.piece import Piece
from services.gateway.request import Request
from services.gateway.sink import Caller, Sink
from services.gateway.sse import stream
from services.gateway.stall import every

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LINGER_SECONDS = 2.0  # for a client that still sends what we refused to read, so that it sees the refusal
_BACKLOG = 65_535
"""As long as the kernel allows (net.core.somaxconn). Connections that a busy loop has not accepted yet wait here. One
that finds no room is tried again by its own kernel after 1, 3, 7, 15, 31, 63 s: it hangs long after the burst."""
_PROGRAM_PATH = "/p/{program}"
"""In front of all of the API's paths, for clients of which only the base URL can be set."""
_LIVE = ("/health", "/healthz", "/livez", "/ping")
_READY = "/readyz"


@dataclass(slots=True)
class _Asked:
    """One request of the API: its fields, the prompts that it holds, how it is answered."""

    fields: Generation
    requests: Sequence[Request]
    id_prefix: str
    shape: Shape
    paths: Sequence[identities.Path] = ()
    """Of the prompts: what they say."""


class HttpDoor:
    """The handlers. `unready` says why no call could be served now; None: one could. `keys`: None: all may come in."""

    def __init__(
        self,
        calls: Calls,
        answers: Answers,
        unready: Callable[[], str | None],
        version: str,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._calls = calls
        self._answers = answers
        self._section = calls.section
        self._resolver = Resolver(calls.section.content_key)
        self._unready = unready
        self._version = version
        self._began = int(time.time())

    def app(self) -> web.Application:
        guards = [access.http_guard(self._keys, (*_LIVE, _READY))] if self._keys else []
        app = web.Application(client_max_size=self._section.max_body_bytes, middlewares=[boundary, *guards])
        for root in ("", _PROGRAM_PATH):
            app.router.add_post(f"{root}/v1/chat/completions", self._chat)
            app.router.add_post(f"{root}/v1/completions", self._completion)
            app.router.add_get(f"{root}/v1/models", self._models)
            app.router.add_get(f"{root}/v1/models/{{name:.+}}", self._model)
        for path in _LIVE:
            app.router.add_get(path, self._live)
        app.router.add_get(_READY, self._ready)
        app.router.add_get("/version", self._tell_version)
        app.router.add_get("/metrics", telemetry.metrics)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        def understand(body: bytes) -> _Asked:
            asked, one = parse_chat(body, self._section.default_max_tokens)
            return _Asked(asked, [one], "chatcmpl", ChatShape(bool(asked.logprobs)))

        return await self._serve(request, understand)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        def understand(body: bytes) -> _Asked:
            asked, several = parse_completion(body)
            return _Asked(asked, several, "cmpl", CompletionShape(asked.logprobs is not None))

        return await self._serve(request, understand)

    async def _serve(self, request: web.Request, understand: Callable[[bytes], _Asked]) -> web.StreamResponse:
        path = request.match_info.get("program", "")
        named = access.owned(identities.from_headers(request.headers, self._section.tenant_header, path))
        request[HEADERS] = named.headers()
        caller = Caller(request)
        try:
            body = await self._body(request)
            key = await self._key(request, named, body) if HEADER in request.headers else None
        except Failure:
            self._name(request, named)
            raise

        def make(sink: Sink) -> Awaitable[Failure | None]:
            return self._make(request, named, understand, body, sink)

        with every(self._section.stalled_reader_seconds, caller.stall.check):
            if key is None:
                await make(caller)
            else:
                await self._answers.once(key, make, caller)
        return caller.response

    async def _make(
        self, request: web.Request, named: Identity, understand: Callable[[bytes], _Asked], body: bytes, sink: Sink
    ) -> Failure | None:
        """The answer. Raises Failure, or returns one that came too late to be raised."""
        try:
            said = urgency.from_headers(request.headers)
            asked = await self._calls.offload(len(body), self._understood, understand, body)
        except Failure:
            self._name(request, named)
            raise
        asked.requests = [replace(one, urgency=said.over(one.urgency)) for one in asked.requests]
        prompts = [(path, one.choices) for path, one in zip(asked.paths, asked.requests, strict=True)]
        resolved = self._resolver.resolve(named, request.headers, asked.fields, prompts)
        request[HEADERS] = resolved.identity.headers()
        failure = await self._answer(request, resolved, asked, len(body), sink)
        if resolved.final:
            with suppress(Failure):  # a scheduler that is away forgets idle programs by itself
                self._calls.end_program(resolved.identity.program_id)
        return failure

    async def _key(self, request: web.Request, named: Identity, body: bytes) -> Key:
        """Of a request that has one. Raises Failure."""
        what = (named.tenant, request.path, body, self._section.content_key)
        return await self._calls.offload(len(body), key_of, request.headers, *what)

    def _name(self, request: web.Request, named: Identity) -> None:
        """Have the error to a request that is not understood say whose it is."""
        request[HEADERS] = self._resolver.resolve(named, request.headers, NOTHING_SAID, ()).identity.headers()

    def _understood(self, understand: Callable[[bytes], _Asked], body: bytes) -> _Asked:
        """May run in a thread."""
        asked = understand(body)
        contents = [contents_of(one.source, 0, self._section.content_key) for one in asked.requests]
        asked.paths = self._resolver.paths(
            (one.source, each) for one, each in zip(asked.requests, contents, strict=True)
        )
        asked.requests = [replace(one, contents=each) for one, each in zip(asked.requests, contents, strict=True)]
        return asked

    async def _answer(
        self, request: web.Request, resolved: Resolved, asked: _Asked, size_bytes: int, sink: Sink
    ) -> Failure | None:
        headers = resolved.identity.headers()
        parent = telemetry.context_from(request.headers.get(telemetry.TRACEPARENT, ""))
        identity = resolved.identity
        async with self._calls.open(identity, asked.requests, size_bytes=size_bytes, parent=parent) as run:
            run.listener = resolved.hear
            answer_id = f"{asked.id_prefix}-{identities.fresh_id()}"
            self._resolver.gave_out(identity, answer_id)
            answered = Answered(answer_id, run.model, int(time.time()), bool(asked.fields.return_token_ids))
            if asked.fields.stream:
                chunks = Chunks(answered, asked.shape, include_usage=asked.fields.include_usage)
                return await stream(run, chunks, headers, self._section, sink)
            pieces: dict[int, Piece] = {}
            while not run.over:
                if item := await run.next():
                    pieces[item[0]] = item[1]
            ordered = [piece for _, piece in sorted(pieces.items())]
            body = whole(answered, asked.shape, ordered, run.usage(), run.endings)
            await sink.whole(body, {**headers, **headers_of(run.eta)})
        return None

    async def _body(self, request: web.Request) -> bytes:
        """Raises Failure for one that is too large, before reading it where it says so, or does not come."""
        limit = self._section.max_body_bytes
        if (request.content_length or 0) > limit:
            message = f"the request body has {request.content_length} bytes; the limit is {limit}"
            raise Failure(Reason.BODY_TOO_LARGE, message)
        try:
            async with asyncio.timeout(self._section.body_timeout_seconds):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Failure(
                Reason.BODY_TOO_LARGE, f"the request body is larger than the limit of {limit} bytes"
            ) from None
        except TimeoutError:
            raise Failure(Reason.DEADLINE_EXCEEDED, "the request body did not arrive in time") from None
        except web.RequestPayloadError as error:
            raise Failure(Reason.INVALID_ARGUMENT, f"the request body cannot be read: {error}") from None

    async def _models(self, request: web.Request) -> web.Response:
        return _json({"object": "list", "data": [self._entry(model) for model in self._calls.models.listed()]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        for model in self._calls.models.listed():
            if model.name == name:
                return _json(self._entry(model))
        raise Failure(Reason.MODEL_NOT_FOUND, f"the model {name[:100]!r} does not exist", "model")

    def _entry(self, model: gateway_pb2.Model) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._began,
            "owned_by": "legato",
            "max_model_len": model.max_model_len,
        }

    async def _live(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        reason = self._unready()
        if reason is None:
            return _json({"status": "ready"})
        return _json({"status": "not ready", "reason": reason}, status=503)

    async def _tell_version(self, request: web.Request) -> web.Response:
        return _json({"version": self._version})


@asynccontextmanager
async def serving(
    door: HttpDoor, host: str, port: int, drain_seconds: float, context: ssl.SSLContext | None = None
) -> AsyncGenerator[int]:
    """Serve; yields the port. On the way out live requests have `drain_seconds` to end. OSError if it is taken."""
    runner = web.AppRunner(
        door.app(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=drain_seconds,
        lingering_time=_LINGER_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json")
