"""Board: what is foretold and in force, and who watches it.

Of each call only the newest forecast counts, and of each thread's next call, which a call that begins takes the place
of: a watcher that is slow gets fewer of them, never old ones. All is bounded by `_MOST` forecasts, of which the oldest
go first. Everything runs on the event loop's thread.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from legato.v1 import workflow_pb2
from services.common import foretold
from services.common.errors import Failure, Reason
from services.common.foretold import Foretold
from services.workflow import metrics

_MOST: Final = 100_000
_BATCH: Final = 1_000
_FRESH_SECONDS: Final = 1.0
"""A forecast that is younger travels as it was made; of an older one, what is left of it."""

_Key: TypeAlias = tuple[str, str, str]
"""Program, thread, call: the thread is empty for a call that has begun, the call for a thread's next one."""


@dataclass(slots=True, eq=False)
class Said:
    """A forecast and when it was made, in Unix time."""

    foretold: Foretold
    made: float
    message: workflow_pb2.CallForecast | None = None

    @property
    def expires(self) -> float:
        return self.made + self.foretold.valid_seconds

    def written(self, now: float) -> workflow_pb2.CallForecast:
        """As it travels now. Written once for all watchers while it is fresh."""
        age = max(now - self.made, 0.0)
        if age > _FRESH_SECONDS:
            return foretold.write(foretold.later(self.foretold, age))
        if self.message is None:
            self.message = foretold.write(self.foretold)
        return self.message


class Watcher:
    """One stream."""

    def __init__(self, clock: Callable[[], float], waiting: dict[_Key, Said]) -> None:
        self._clock = clock
        self._waiting = waiting
        self._changed = asyncio.Event()
        self._ended = False

    def put(self, key: _Key, said: Said) -> None:
        """Add a forecast, in place of an unsent one of the same."""
        self._waiting.pop(key, None)
        if len(self._waiting) >= _MOST:
            del self._waiting[next(iter(self._waiting))]
            metrics.DROPPED.inc()
        self._waiting[key] = said
        self._changed.set()

    def drop(self, key: _Key) -> None:
        """What was foretold of it need not be sent."""
        self._waiting.pop(key, None)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def take(self) -> workflow_pb2.WatchForecastsResponse:
        """Wait for forecasts and take them, the oldest first. Raises Failure at the end."""
        while not self._waiting and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._ended:
            raise Failure(Reason.DRAINING, "the workflow service is about to stop")
        return self.batch()

    def batch(self) -> workflow_pb2.WatchForecastsResponse:
        """Those that wait, as far as they fit into one message."""
        now = self._clock()
        response = workflow_pb2.WatchForecastsResponse()
        for key in list(self._waiting)[:_BATCH]:
            said = self._waiting.pop(key)
            if said.expires > now:
                response.forecasts.append(said.written(now))
        return response


class Board:
    """`clock` tells Unix time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[_Key, Said] = {}
        """The oldest first."""
        self._programs: dict[str, dict[_Key, None]] = {}
        """What is said of each."""
        self._watchers: set[Watcher] = set()
        self._sweep_at = 1_000
        self._ended = False

    def post(self, foretold: Foretold, made: float) -> None:
        """Something is foretold, in place of what was of the same call, or of the thread's next one."""
        key = following = foretold.program_id, foretold.thread or foretold.agent, ""
        if foretold.call_id:
            self._drop(following)
            key = foretold.program_id, "", foretold.call_id
        said = Said(foretold, made)
        self._said.pop(key, None)
        self._said[key] = said
        self._programs.setdefault(foretold.program_id, {})[key] = None
        if len(self._said) >= self._sweep_at:
            self._sweep()
        for watcher in self._watchers:
            watcher.put(key, said)

    def ended(self, program_id: str, call_id: str) -> None:
        """The call is no more: what was foretold of it concerns nobody."""
        self._drop((program_id, "", call_id))

    def over(self, program_id: str) -> None:
        """The program makes no more calls: what was foretold of it concerns nobody."""
        for key in list(self._programs.get(program_id, ())):
            self._drop(key)

    def in_force(self) -> list[Said]:
        """The oldest first."""
        now = self._clock()
        return [said for said in self._said.values() if said.expires > now]

    @contextmanager
    def watching(self) -> Generator[Watcher]:
        """A watcher that gets first what is in force."""
        now = self._clock()
        watcher = Watcher(self._clock, {key: said for key, said in self._said.items() if said.expires > now})
        if self._ended:
            watcher.end()
        self._watchers.add(watcher)
        metrics.WATCHERS.set(len(self._watchers))
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            metrics.WATCHERS.set(len(self._watchers))

    def end(self) -> None:
        """All streams end."""
        self._ended = True
        for watcher in self._watchers:
            watcher.end()

    def _drop(self, key: _Key) -> None:
        if key in self._said:
            self._forget(key)
            for watcher in self._watchers:
                watcher.drop(key)

    def _sweep(self) -> None:
        now = self._clock()
        for key in [key for key, said in self._said.items() if said.expires <= now]:
            self._forget(key)
        while len(self._said) >= _MOST:
            self._forget(next(iter(self._said)))
        self._sweep_at = min(max(2 * len(self._said), 1_000), _MOST)
        metrics.IN_FORCE.set(len(self._said))

    def _forget(self, key: _Key) -> None:
        del self._said[key]
        keys = self._programs[key[0]]
        del keys[key]
        if not keys:
            del self._programs[key[0]]
