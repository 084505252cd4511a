"""The state store in Redis (7.0 and later; one server or a failover pair, not a sharded cluster).

Increment and append run as scripts that remember their result under the request id, so that the one retry made here
when a connection breaks, and any made by callers, count once. A command that times out is not retried here. What waits
for a stream does so in turns that end within the timeout, so a server that hangs is noticed as soon as by any other
command, and on connections of its own: it takes none from the others, and is not repeated where one breaks, for
the first try may have been given entries.

Keys: `legato:{cluster}:data:{key}`, `legato:{cluster}:once:...` for request ids and `legato:{cluster}:fence:...`.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from services.common.config import StateSection
from services.common.state import credentials
from services.common.state.store import KEPT_ENTRIES, ONCE_SECONDS, GroupStatus, StoreUnavailable

_MAX_CONNECTIONS: Final = 32
"""More operations than this wait for a connection, within their timeout. So many more may wait for streams."""
_SCAN_COUNT: Final = 500
_ENTRY: Final = b"e"
"""The one field of a stream's entries."""
_ACKNOWLEDGED: Final = 1_000
"""Entries that one script acknowledges, so that it does not hold up others."""

# What a server refuses for its own state (no memory, no replicas, a failed snapshot, a permission) has no class of its
# own in redis-py, so all its errors count.
_UNAVAILABLE = (RedisError, OSError)
_PIPELINED: Final = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
"""What redis-py puts before the server's words: it holds what was to be written, which has no place in a log."""
_RENEWAL_SECONDS: Final = 0.5
_NO_ROOM: Final = "MISCONF"
"""In the words of a server that cannot write its file."""

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

# Tokens are compared as text, the shorter being the smaller: Lua's numbers are doubles.
_WRITE: Final = """
local met = redis.call('GET', KEYS[1])
if met and (#met > #ARGV[1] or (#met == #ARGV[1] and met > ARGV[1])) then return met end
redis.call('SET', KEYS[1], ARGV[1])
for at = 2, #KEYS do
  local value = ARGV[at + 1]
  if not value then
    redis.call('DEL', KEYS[at])
  elseif ARGV[2] == '' then
    redis.call('SET', KEYS[at], value)
  else
    redis.call('SET', KEYS[at], value, 'PX', ARGV[2])
  end
end
return ARGV[1]
"""

_ACKNOWLEDGE: Final = """
local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', ARGV[2], ARGV[3])
if found.err then
  if string.find(found.err, 'NOGROUP') then return 0 end
  return found
end
for _, entry in ipairs(found) do redis.call('XACK', KEYS[1], ARGV[1], entry[1]) end
return #found
"""

_STATUS: Final = """
local answer = {'', '', 0, -1}
if redis.call('EXISTS', KEYS[1]) == 0 then return answer end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #oldest > 0 then
  answer[1] = oldest[1][1]
  answer[2] = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local values = {}
  for at = 1, #group, 2 do values[group[at]] = group[at + 1] end
  if values['name'] == ARGV[1] then
    answer[3] = values['pending']
    answer[4] = values['lag'] or -1
  end
end
return answer
"""

_DROP_IDLE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do -- name, NAME, ...
  local readers = redis.call('XINFO', 'CONSUMERS', KEYS[1], group[2])
  local idle = #readers > 0
  for _, reader in ipairs(readers) do -- name, NAME, pending, NUMBER, idle, MILLISECONDS, ...
    idle = idle and reader[6] >= tonumber(ARGV[1])
  end
  if idle then redis.call('XGROUP', 'DESTROY', KEYS[1], group[2]) end
end
"""


@contextlib.asynccontextmanager
async def connect(section: StateSection, cluster: str) -> AsyncGenerator["RedisStore"]:
    """A store on the server at `section.url`; connects with the first operation."""
    client = Redis.from_pool(_pool(section, retries=1))
    waiting = Redis.from_pool(_pool(section, retries=0))
    store = RedisStore(client, waiting, f"legato:{cluster}:", section.timeout_seconds)
    try:
        yield store
    finally:
        store.close()
        await waiting.aclose()
        await client.aclose()


def _pool(section: StateSection, retries: int) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]: its keywords are untyped
        section.url,
        max_connections=_MAX_CONNECTIONS,
        timeout=section.timeout_seconds,
        socket_timeout=section.timeout_seconds,
        socket_connect_timeout=section.timeout_seconds,
        retry=Retry(ConstantBackoff(0.02), retries, supported_errors=(RedisConnectionError,)),
        **credentials.of(section),
    )


class RedisStore:
    """A Store on two Redis clients; `waiting` repeats nothing by itself."""

    def __init__(self, client: Redis, waiting: Redis, prefix: str, timeout_seconds: float) -> None:
        # redis-py types every answer as bytes or text, whichever it was set up for; here they are bytes.
        self._redis: Any = client
        self._waiting: Any = waiting
        self._data = f"{prefix}data:"
        self._once = f"{prefix}once:"
        self._fence = f"{prefix}fence:"
        self._timeout_seconds = timeout_seconds
        self._had_no_room = False
        self._renewal: asyncio.Task[None] | None = None
        self._increment = client.register_script(_INCREMENT)
        self._append = client.register_script(_APPEND)
        self._write = client.register_script(_WRITE)
        self._acknowledge = client.register_script(_ACKNOWLEDGE)
        self._drop_idle = client.register_script(_DROP_IDLE)
        self._status = client.register_script(_STATUS)

    def close(self) -> None:
        """End what it does by itself."""
        if self._renewal is not None:
            self._renewal.cancel()

    async def get(self, key: str) -> bytes | None:
        async with self._bounded():
            return await self._redis.get(self._data + key)

    async def put(self, key: str, value: bytes, expire_seconds: float | None = None) -> None:
        async with self._writing():
            await self._redis.set(self._data + key, value, px=_milliseconds(expire_seconds))

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        if not items:
            return
        async with self._writing(), self._redis.pipeline(transaction=True) as transaction:
            for key, value in items.items():
                transaction.set(self._data + key, value, px=_milliseconds(expire_seconds))
            await transaction.execute()

    async def write(
        self,
        fence: str,
        token: int,
        put: Mapping[str, bytes],
        delete: Collection[str] = (),
        expire_seconds: float | None = None,
    ) -> int:
        keys = (self._fence + fence, *(self._data + key for key in (*put, *delete)))  # what has no value is deleted
        async with self._writing():
            met = await self._write(keys=keys, args=(token, _milliseconds(expire_seconds) or "", *put.values()))
        return int(met)

    async def delete(self, *keys: str) -> None:
        if keys:
            async with self._writing():
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

    async def append_many(self, stream: str, entries: Sequence[bytes], keep: int = KEPT_ENTRIES) -> None:
        if not entries:
            return
        async with self._writing(), self._redis.pipeline(transaction=True) as transaction:
            for entry in entries:
                transaction.xadd(self._data + stream, {_ENTRY: entry}, maxlen=keep)
            await transaction.execute()

    async def read(
        self, stream: str, after: str = "0", count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        client = self._waiting if wait_seconds else self._redis
        return await self._read(
            wait_seconds, lambda block: client.xread({self._data + stream: after}, count=count, block=block)
        )

    async def seek(self, stream: str, group: str, after: str = "0") -> None:
        async with self._bounded():
            try:
                await self._redis.xgroup_create(self._data + stream, group, after, mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
                await self._redis.xgroup_setid(self._data + stream, group, after)

    async def read_group(
        self, stream: str, group: str, reader: str, count: int = 1000, wait_seconds: float = 0.0
    ) -> list[tuple[str, bytes]]:
        new = {self._data + stream: ">"}
        return await self._read(
            wait_seconds, lambda block: self._waiting.xreadgroup(group, reader, new, count=count, block=block)
        )

    async def acknowledge(self, stream: str, group: str, up_to: str) -> None:
        done = _ACKNOWLEDGED
        while done == _ACKNOWLEDGED:
            async with self._writing():
                done = await self._acknowledge(keys=(self._data + stream,), args=(group, up_to, _ACKNOWLEDGED))

    async def drop_group(self, stream: str, group: str) -> None:
        async with self._bounded():
            try:
                await self._redis.xgroup_destroy(self._data + stream, group)
            except ResponseError as error:
                if "key to exist" not in str(error):
                    raise

    async def drop_idle_groups(self, stream: str, idle_seconds: float) -> None:
        async with self._bounded():
            await self._drop_idle(keys=(self._data + stream,), args=(round(idle_seconds * 1000),))

    async def status(self, stream: str, group: str) -> GroupStatus:
        async with self._bounded():
            oldest, newest, pending, lag = await self._status(keys=(self._data + stream,), args=(group,))
        return GroupStatus(oldest.decode(), newest.decode(), pending, None if lag < 0 else lag)

    async def _read(self, wait_seconds: float, read: Callable[[int | None], Awaitable[Any]]) -> list[tuple[str, bytes]]:
        """`read` takes how many milliseconds to block; None: not at all."""
        now = asyncio.get_running_loop().time
        until = now() + wait_seconds
        while True:
            left = min(until - now(), self._timeout_seconds / 2)
            async with self._bounded():
                found = await read(max(1, round(left * 1000)) if left > 0 else None)
            if found or now() >= until:
                return [(entry_id.decode(), fields[_ENTRY]) for _, entries in found for entry_id, fields in entries]

    async def _run_once(self, script: Any, key: str, request_id: str, arguments: Sequence[bytes | int]) -> Any:
        once = f"{self._once}{len(key)}:{key}:{request_id}"
        async with self._writing():
            return await script(keys=(self._data + key, once), args=arguments)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        """Bounds what is inside, waiting for a connection included, and names what goes wrong with the server."""
        task = asyncio.current_task()
        assert task is not None
        num_cancelled = task.cancelling()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except _UNAVAILABLE as error:
            said = _PIPELINED.sub("", str(error)) or type(error).__name__
            raise StoreUnavailable(f"the state store fails: {said}") from error
        finally:
            if task.cancelling() > num_cancelled:  # redis-py loses a cancellation that meets its look at a connection
                raise asyncio.CancelledError

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncGenerator[None]:
        """Bounded likewise, for what may need room."""
        try:
            async with self._bounded():
                yield
        except StoreUnavailable as error:
            self._had_no_room |= _NO_ROOM in str(error)
            raise
        if self._had_no_room:
            self._renew_file()

    def _renew_file(self) -> None:
        """Have a server that can write again begin another file. The one it has may hold a gap now, and what it writes
        behind that would be lost when its disk is full once more (services/local/redis_start.py)."""
        self._had_no_room = False
        self.close()  # what was asked for before may have begun before
        self._renewal = asyncio.create_task(self._renewed(), name="renew the append-only file")

    async def _renewed(self) -> None:
        """Ask for it until one that was begun from now on has ended well. Redis tells only who asks."""
        began = False
        while True:
            with contextlib.suppress(*_UNAVAILABLE):  # or one is under way, and may have begun before
                said = await self._redis.info("persistence")
                if not said["aof_rewrite_in_progress"]:
                    if began and said["aof_last_bgrewrite_status"] == "ok":
                        return
                    await self._redis.bgrewriteaof()
                    began = True
            await asyncio.sleep(_RENEWAL_SECONDS)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _escaped(text: str) -> str:
    """As a literal in a Redis glob."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
