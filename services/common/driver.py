"""Driver: runs a pure core against a clock. The same core object code runs live and in the simulator.

A core takes events and returns actions; it does no I/O and reads no clock. The driver feeds it, performs its actions
in order, and keeps one timer for the moment at which the core next has something due.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from services.common.clock import Clock, Timer

E_contra = TypeVar("E_contra", contravariant=True)
E = TypeVar("E")
A = TypeVar("A")


class Core(Protocol[E_contra, A]):
    """A deterministic state machine."""

    def handle(self, event: E_contra, now: float) -> list[A]:
        """Take one event. The only mutator besides `tick`."""
        ...

    def tick(self, now: float) -> list[A]:
        """Do what is due at `now`."""
        ...

    def next_tick(self) -> float | None:
        """When to call `tick`; None when nothing is pending."""
        ...


class Driver(Generic[E, A]):
    """Feeds one core. `perform` is called for each action, in order; events fed from inside it wait their turn."""

    def __init__(self, core: Core[E, A], clock: Clock, perform: Callable[[A], None]) -> None:
        self._core = core
        self._clock = clock
        self._perform = perform
        self._events: deque[E] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._due: float | None = None

    def feed(self, event: E) -> None:
        """Hand an event to the core and perform what it answers."""
        self._events.append(event)
        if not self._busy:
            self._run([])

    def close(self) -> None:
        """Drop the timer; the core is not called again unless fed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self._run(self._core.tick(self._clock.now()))

    def _run(self, actions: list[A]) -> None:
        self._busy = True
        try:
            while True:
                for action in actions:
                    self._perform(action)
                if not self._events:
                    break
                actions = self._core.handle(self._events.popleft(), self._clock.now())
        finally:
            self._busy = False
        self._arm()

    def _arm(self) -> None:
        due = self._core.next_tick()
        if self._timer is not None:
            if due == self._due:
                return
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is not None:
            self._timer = self._clock.call_at(due, self._on_timer)
