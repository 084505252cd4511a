"""Requests that say who they are: `Idempotency-Key` makes a second one of the same key get the first one's answer.

While the first runs at this gateway a second one hears the same answer, a stream from its beginning; a call is aborted
when nobody is left who hears it. An answer that ended well is kept in the state store, so that every gateway gives it
to whoever asks again in time. Errors are not kept: who asks again then is answered anew. Two gateways that are asked at
the same time do not know of each other, and both run the call. While the state store is away nothing is remembered,
nor what is larger than there is room for: who asks again then is answered anew, too.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.common.errors import Failure, Reason
from services.common.state import Store, StoreUnavailable
from services.gateway import metrics
from services.gateway.config import GatewaySection
from services.gateway.room import Room
from services.gateway.sink import Sink
from services.gateway.tape import Tape

_log = logging.getLogger(__name__)

Make: TypeAlias = Callable[[Sink], Awaitable[Failure | None]]
"""Makes an answer. Raises what it fails with at once; what it fails with later it says and returns."""

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replayed": "true"}
"""Header of an answer that was made for another request."""
_MOST_BYTES: Final = 255
_STORED: Final = "idempotency/"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Key:
    """What names a request, and a hash of what it asks for."""

    name: bytes
    fingerprint: bytes


def key_of(headers: Mapping[str, str], tenant: str, path: str, body: bytes, secret: bytes) -> Key:
    """The key of a request that has one. Other tenants' and other API keys' are others. Raises Failure."""
    said = headers[HEADER]
    if not (said.isascii() and said.isprintable() and 0 < len(said) <= _MOST_BYTES):
        message = f"{HEADER}: must be 1 to {_MOST_BYTES} printable ASCII characters"
        raise Failure(Reason.INVALID_ARGUMENT, message, HEADER)
    return Key(
        _digest(
            secret,
            tenant.encode(errors="replace"),
            headers.get("Authorization", "").encode(errors="replace"),
            said.encode(),
        ),
        _digest(secret, path.encode(errors="replace"), body),
    )


@dataclass(slots=True, eq=False)
class _Running:
    fingerprint: bytes
    tape: Tape = field(default_factory=Tape)
    task: "asyncio.Task[None] | None" = None
    listeners: int = 0
    made: bool = False
    """All that is left is to keep it."""


class Answers:
    """Of this gateway and, through the store, of all. `tasks` owns what runs."""

    def __init__(self, tasks: asyncio.TaskGroup, store: Store, section: GatewaySection) -> None:
        self._tasks = tasks
        self._store = store
        self._seconds = section.idempotency_seconds
        self._most_bytes = section.idempotency_bytes
        self._room = Room(section.idempotency_total_bytes, self._seconds, asyncio.get_running_loop().time)
        self._running: dict[bytes, _Running] = {}

    async def once(self, key: Key, make: Make, caller: Sink) -> None:
        """Answer with what was, is or will now be made for the key. Raises Failure."""
        running, headers = self._running.get(key.name), REPLAYED
        if running is None:
            running, headers = self._running.setdefault(key.name, _Running(key.fingerprint)), {}
            running.task = self._tasks.create_task(self._run(key, running, make), name="idempotent request")
        elif running.fingerprint != key.fingerprint:
            raise _reused()
        else:
            metrics.IDEMPOTENT.labels("joined").inc()
        running.listeners += 1
        try:
            await running.tape.play(caller, headers)
        finally:
            running.listeners -= 1
            if not running.listeners and not running.made and running.task is not None:
                self._forget(key, running)
                running.task.cancel()

    async def _run(self, key: Key, running: _Running, make: Make) -> None:
        try:
            if (kept := await self._kept(key)) is not None:
                await kept.play(running.tape, REPLAYED)
                metrics.IDEMPOTENT.labels("replayed").inc()
            else:
                metrics.IDEMPOTENT.labels("new").inc()
                failure = await make(running.tape)
                running.made = True
                if failure is None:
                    await self._keep(key, running.tape)
        except Exception as error:  # the callers' to handle, whatever it is
            running.tape.end(error)
        except asyncio.CancelledError:
            gone = Failure(Reason.CANCELLED, "the caller went away")
            running.tape.end(Failure(Reason.DRAINING, "the gateway has stopped") if running.listeners else gone)
            raise
        else:
            running.tape.end()
        finally:
            running.made = True
            self._forget(key, running)

    async def _kept(self, key: Key) -> Tape | None:
        """Raises Failure where the key was used for something else."""
        try:
            packed = await self._store.get(_STORED + key.name.hex())
        except StoreUnavailable as failure:
            _log.warning("an answer that may be kept is not looked for: %s", failure)
            return None
        if packed is None:
            return None
        if packed[:_DIGEST_BYTES] != key.fingerprint:
            raise _reused()
        try:
            return Tape.unpacked(packed[_DIGEST_BYTES:])
        except ValueError as error:  # of another version, perhaps
            _log.warning("an answer that was kept cannot be read, and is made anew: %s", error)
            return None

    async def _keep(self, key: Key, tape: Tape) -> None:
        packed = key.fingerprint + tape.packed()
        if not self._seconds:
            return
        ticket = self._room.take(len(packed)) if len(packed) <= self._most_bytes else None
        if ticket is None:
            metrics.IDEMPOTENT.labels("not kept").inc()
            return
        try:
            await self._store.put(_STORED + key.name.hex(), packed, self._seconds)
        except StoreUnavailable as failure:
            self._room.give_back(ticket)
            _log.warning("an answer is not kept: %s", failure)

    def _forget(self, key: Key, running: _Running) -> None:
        if self._running.get(key.name) is running:
            del self._running[key.name]


def _digest(secret: bytes, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(key=secret[:64], digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.digest()


def _reused() -> Failure:
    metrics.IDEMPOTENT.labels("refused").inc()
    message = f"{HEADER}: it was used for another request; each request needs a key of its own"
    return Failure(Reason.IDEMPOTENCY_KEY_REUSED, message, HEADER)
