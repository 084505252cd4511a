"""The state store in Redis (7.0 and later; one server or a failover pair, not a sharded cluster).

Increment and append run as scripts that remember their result under the request id, so that the one retry made here
when a connection breaks, and any made by callers, count once. A command that times out is not retried here.

Keys: `legato:{cluster}:data:{key}`, and `legato:{cluster}:once:...` for request ids.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.common.config import StateSection
from services.common.state.store import KEPT_ENTRIES, ONCE_SECONDS, StoreUnavailable

_MAX_CONNECTIONS: Final = 32
"""More operations than this wait for a connection, within their timeout."""
_SCAN_COUNT: Final = 500
_ENTRY: Final = b"e"
"""The one field of a stream's entries."""

# What a server refuses for its own state (no memory, no replicas, a failed snapshot, a permission) has no class of its
# own in redis-py, so all its errors count.
_UNAVAILABLE = (RedisError, OSError)

_INCREMENT: Final = """
local first = redis.call('GET', KEYS[2])
if first then return first end
redis.call('INCRBY', KEYS[1], ARGV[1])
local total = redis.call('GET', KEYS[1]) -- as text: Lua's numbers are doubles
redis.call('SET', KEYS[2], total, 'EX', ARGV[2])
return total
"""

_APPEND: Final = """
local first = redis.call('GET', KEYS[2])
if first then return first end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[1])
redis.call('SET', KEYS[2], id, 'EX', ARGV[2])
return id
"""


@asynccontextmanager
async def connect(section: StateSection, cluster: str) -> AsyncGenerator["RedisStore"]:
    """A store on the server at `section.url`; connects with the first operation."""
    password = section.password.get_secret_value()
    pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]: its keywords are untyped
        section.url,
        max_connections=_MAX_CONNECTIONS,
        timeout=section.timeout_seconds,
        socket_timeout=section.timeout_seconds,
        socket_connect_timeout=section.timeout_seconds,
        retry=Retry(ConstantBackoff(0.02), 1, supported_errors=(RedisConnectionError,)),
        **({"password": password} if password else {}),
    )
    client = Redis.from_pool(pool)
    try:
        yield RedisStore(client, f"legato:{cluster}:", section.timeout_seconds)
    finally:
        await client.aclose()


class RedisStore:
    """A Store on a Redis client."""

    def __init__(self, client: Redis, prefix: str, timeout_seconds: float) -> None:
        # redis-py types every answer as bytes or text, whichever it was set up for; here they are bytes.
        self._redis: Any = client
        self._data = f"{prefix}data:"
        self._once = f"{prefix}once:"
        self._timeout_seconds = timeout_seconds
        self._increment = client.register_script(_INCREMENT)
        self._append = client.register_script(_APPEND)

    async def get(self, key: str) -> bytes | None:
        async with self._bounded():
            return await self._redis.get(self._data + key)

    async def put(self, key: str, value: bytes, expire_seconds: float | None = None) -> None:
        async with self._bounded():
            await self._redis.set(self._data + key, value, px=_milliseconds(expire_seconds))

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        if not items:
            return
        async with self._bounded(), self._redis.pipeline(transaction=True) as transaction:
            for key, value in items.items():
                transaction.set(self._data + key, value, px=_milliseconds(expire_seconds))
            await transaction.execute()

    async def delete(self, *keys: str) -> None:
        if keys:
            async with self._bounded():
                await self._redis.delete(*(self._data + key for key in keys))

    async def items(self, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
        pattern = _escaped(self._data + prefix) + "*"
        seen: set[bytes] = set()  # a scan may return a key twice
        cursor = 0
        while True:
            async with self._bounded():
                cursor, keys = await self._redis.scan(cursor, match=pattern, count=_SCAN_COUNT)
                new = [key for key in dict.fromkeys(keys) if key not in seen]
                values: list[bytes | None] = await self._redis.mget(new) if new else []
            seen.update(new)
            for key, value in zip(new, values, strict=True):
                if value is not None:
                    yield key.decode()[len(self._data) :], value
            if not cursor:
                return

    async def increment(self, key: str, by: int, request_id: str) -> int:
        return int(await self._run_once(self._increment, key, request_id, (by, ONCE_SECONDS)))

    async def append(self, stream: str, entry: bytes, request_id: str) -> str:
        arguments = (entry, ONCE_SECONDS, KEPT_ENTRIES)
        return (await self._run_once(self._append, stream, request_id, arguments)).decode()

    async def read(self, stream: str, after: str = "0", count: int = 1000) -> list[tuple[str, bytes]]:
        async with self._bounded():
            found = await self._redis.xrange(self._data + stream, min=f"({after}", count=count)
        return [(entry_id.decode(), fields[_ENTRY]) for entry_id, fields in found]

    async def _run_once(self, script: Any, key: str, request_id: str, arguments: Sequence[bytes | int]) -> Any:
        once = f"{self._once}{len(key)}:{key}:{request_id}"
        async with self._bounded():
            return await script(keys=(self._data + key, once), args=arguments)

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        """Bounds what is inside, waiting for a connection included, and names what goes wrong with the server."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except _UNAVAILABLE as error:
            raise StoreUnavailable(f"the state store fails: {str(error) or type(error).__name__}") from error


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _escaped(text: str) -> str:
    """As a literal in a Redis glob."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
