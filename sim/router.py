"""A plain router in the scheduler's place: every call goes to an engine at once and queues there, first come first
served; nothing is held back. What engines are put behind where there is no program scheduling.

- `session`: a program's calls go where its first one went, which was the worker with the fewest programs.
- `round_robin`: the next worker in turn.
- `least_loaded`: where the fewest calls are.
- `cache_aware`: where most of the prompt is cached, if that is at least half of it; else where the fewest calls are
  (sglang-router's rule, by what engines report instead of its own guess).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from services.scheduler import events
from services.scheduler.cache_index import CacheIndex
from services.scheduler.events import Action, CallKey, CallSubmitted, Event, Place
from sim.wire import Wire

NAMES = ("session", "round_robin", "least_loaded", "cache_aware")
_CACHE_SHARE = 0.5


class Router:
    """Hears what a scheduler hears."""

    def __init__(self, name: str, wire: Wire, perform: Callable[[Action], None]) -> None:
        if name not in NAMES:
            raise ValueError(f"unknown router {name!r}; known: {', '.join(NAMES)}")
        self._name = name
        self._wire = wire
        self._perform = perform
        self._turn = count()
        self._index = CacheIndex()
        self._block_size: dict[str, int] = {}
        self._calls: dict[str, set[CallKey]] = {}
        """By worker."""
        self._submitted: dict[CallKey, CallSubmitted] = {}
        self._homeless: list[CallKey] = []
        """Calls for which no worker is there."""
        self._where: dict[CallKey, tuple[str, int]] = {}
        """Worker and attempt of each call."""
        self._homes: dict[str, str] = {}

    def tell(self, *events: Event) -> None:
        """Send it word."""
        self._wire.send(self._hear_all, events)

    def _hear_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        self._wire.record(type(event).__name__, getattr(event, "program_id", ""), getattr(event, "call_id", ""))
        match event:
            case events.WorkerJoined():
                self._calls[event.worker_id] = set()
                self._block_size[event.worker_id] = event.block_size
                self._index.join(event.worker_id, event.num_blocks)
                homeless, self._homeless = self._homeless, []
                for key in homeless:
                    self._place(key)
            case events.WorkerLost():
                del self._calls[event.worker_id]
                self._index.leave(event.worker_id)
            case events.CacheReported():
                self._index.update(event.worker_id, event.stored, event.removed, event.reset)
            case events.CallSubmitted():
                key = (event.program_id, event.call_id)
                self._submitted[key] = event
                self._place(key)
            case events.CallLost():
                self._take_off((event.program_id, event.call_id))
                self._place((event.program_id, event.call_id))
            case events.CallFinished():
                key = (event.program_id, event.call_id)
                self._take_off(key)
                del self._submitted[key], self._where[key]
            case events.ProgramEnded():
                self._homes.pop(event.program_id, None)
            case _:
                pass

    def _place(self, key: CallKey) -> None:
        if not self._calls:
            self._homeless.append(key)
            return
        call = self._submitted[key]
        worker_id = self._choose(call)
        attempt = self._where.get(key, ("", 0))[1] + 1
        self._where[key] = worker_id, attempt
        self._calls[worker_id].add(key)
        self._wire.send(self._perform, Place(call.link, *key, attempt, worker_id, worker_id, 0, 0, 0.0))

    def _take_off(self, key: CallKey) -> None:
        """The call does not run any more where it did."""
        worker_id, _ = self._where[key]
        self._calls.get(worker_id, set()).discard(key)

    def _choose(self, call: CallSubmitted) -> str:
        if self._name == "round_robin":
            return list(self._calls)[next(self._turn) % len(self._calls)]
        if self._name == "session":
            home = self._homes.get(call.program_id, "")
            if home not in self._calls:
                programs = Counter(self._homes.values())
                home = self._homes[call.program_id] = min(self._calls, key=lambda worker: programs[worker])
            return home
        if self._name == "cache_aware" and (cached := self._index.match(call.block_hashes, self._calls)):
            best = max(cached, key=lambda worker: cached[worker])
            if cached[best] * self._block_size[best] >= _CACHE_SHARE * call.prompt_tokens:
                return best
        return min(self._calls, key=lambda worker: len(self._calls[worker]))
