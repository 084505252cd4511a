"""Stopwatch: a core that says how long each of its turns took."""

from time import thread_time

from services.scheduler.core import Core
from services.scheduler.events import Action, Event, Place


class Stopwatch:
    """In front of a core, for a Driver."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.seconds: list[float] = []
        """Of each turn since `start`."""
        self.num_decisions = 0
        """Placements in them."""

    def start(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()
        self.num_decisions = 0

    def handle(self, event: Event, now: float) -> list[Action]:
        began = thread_time()
        actions = self.core.handle(event, now)
        return self._measured(actions, began)

    def tick(self, now: float) -> list[Action]:
        began = thread_time()
        actions = self.core.tick(now)
        return self._measured(actions, began)

    def next_tick(self) -> float | None:
        return self.core.next_tick()

    def _measured(self, actions: list[Action], began: float) -> list[Action]:
        self.seconds.append(thread_time() - began)
        self.num_decisions += sum(isinstance(action, Place) for action in actions)
        return actions
