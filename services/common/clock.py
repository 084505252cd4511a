"""Time, injected: the event loop's clock when live, a heap of timers in the simulator and in tests.

All times are seconds on an arbitrary origin. Callbacks run one at a time, never inside `call_at`.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A pending callback."""

    def cancel(self) -> None:
        """Keep the callback from running. Harmless when it already ran."""
        ...


class Clock(Protocol):
    """Tells the time and calls back."""

    def now(self) -> float:
        """Seconds since the clock's origin; never goes back."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` at `when`, or as soon as possible if that is past."""
        ...


class LoopClock:
    """The running event loop's monotonic clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return self._loop.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_at(when, callback)


class _VirtualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A clock that jumps from one timer to the next. Timers due at the same instant run in the order they were set."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._timers: list[tuple[float, int, _VirtualTimer]] = []
        self._sequence = itertools.count()

    def now(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = _VirtualTimer(callback)
        heapq.heappush(self._timers, (max(when, self._now), next(self._sequence), timer))
        return timer

    def step(self) -> bool:
        """Jump to the next timer and run it. False when none is left."""
        due = self.next_due()
        if due is None:
            return False
        self._now, _, timer = heapq.heappop(self._timers)
        if timer.callback is not None:
            timer.callback()
        return True

    def next_due(self) -> float | None:
        """When the next timer runs; None when none is left."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run(self, until: float = float("inf")) -> None:
        """Run every timer due up to and including `until`, then stand at `until` if it is finite."""
        while (due := self.next_due()) is not None and due <= until:
            self.step()
        if until != float("inf"):
            self._now = max(self._now, until)
