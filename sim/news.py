"""What a worker's service tells the scheduler: load and cache, merged, at most one message of each in a while."""

from collections.abc import Callable

from services.common.clock import Clock
from services.scheduler.events import CacheReported, LoadReported
from services.worker.simulated.events import Counters, Report


class News:
    """`watch` hears them together, as events, if somebody does."""

    def __init__(self, worker_id: str, clock: Clock, report_seconds: float) -> None:
        self.watch: Callable[..., None] | None = None
        self.cached: set[int] = set()
        """Blocks in the engine's cache."""
        self._worker_id = worker_id
        self._clock = clock
        self._report_seconds = report_seconds
        self._next_report = clock.now()
        self._reporting = False
        self._touched: set[int] = set()
        """Blocks that came or went since the last message."""
        self._known: set[int] = set()
        """What the last message left."""
        self._counters: Counters | None = None

    def take(self, report: Report) -> None:
        """The engine's next report."""
        self._counters = report.counters
        for blocks, update in ((report.removed, self.cached.difference_update), (report.stored, self.cached.update)):
            if blocks:
                update(blocks)
                self._touched.update(blocks)
        if self.watch is None or self._reporting:
            return
        if self._next_report <= self._clock.now():
            self._tell()
        else:
            self._reporting = True
            self._clock.call_at(self._next_report, self._tell)

    def load(self) -> LoadReported:
        """As it is now."""
        counters = self._counters
        if counters is None:
            return LoadReported(self._worker_id)
        return LoadReported(
            self._worker_id,
            counters.num_running,
            counters.num_waiting,
            counters.step_seconds,
            counters.prefill_tokens_per_second,
        )

    def all(self) -> list[int]:
        """Every block of the cache, told to somebody new."""
        self._known = set(self.cached)
        self._touched.clear()
        return list(self.cached)

    def _tell(self) -> None:
        self._reporting = False
        self._next_report = self._clock.now() + self._report_seconds
        if self.watch is None:
            return
        present = self._touched & self.cached
        stored = present - self._known
        removed = (self._touched - present) & self._known
        self._touched.clear()
        if stored or removed:
            self._known |= stored
            self._known -= removed
            self.watch(self.load(), CacheReported(self._worker_id, list(stored), list(removed)))
        else:
            self.watch(self.load())
