"""A scheduler core on a virtual clock, with engines that run what they are given at a fixed pace."""

from collections.abc import Sequence

from services.common.clock import VirtualClock
from services.common.driver import Driver
from services.scheduler import ordering
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.events import (
    Action,
    CacheReported,
    CallFinished,
    CallKey,
    CallLost,
    CallSubmitted,
    Event,
    FleetKnown,
    LoadReported,
    Place,
    Reject,
    TokenUsage,
    WorkerJoined,
    WorkerLost,
)

MODEL = "m"


class Stage:
    """Checks the core after each event. `runs_seconds`: what engines take for a call; None: calls end when told to."""

    def __init__(self, runs_seconds: float | None = None, **settings: object) -> None:
        section = SchedulerSection.model_validate({"ordering": "fcfs", **settings})
        self.clock = VirtualClock()
        self.core = Core(section.limits(), ordering.load(section.ordering, **section.ordering_params))
        self.driver: Driver[Event, Action] = Driver(self.core, self.clock, self._perform)
        self.actions: list[Action] = []
        self.running: dict[CallKey, Place] = {}
        self.runs_seconds = runs_seconds
        self.seconds: dict[CallKey, float] = {}
        """Engine seconds of single calls, where they differ from `runs_seconds`."""

    @property
    def placed(self) -> list[Place]:
        """All placements so far."""
        return [action for action in self.actions if isinstance(action, Place)]

    @property
    def order(self) -> list[str]:
        """call_id of all placements so far."""
        return [place.call_id for place in self.placed]

    @property
    def rejected(self) -> list[Reject]:
        """All rejections so far."""
        return [action for action in self.actions if isinstance(action, Reject)]

    def feed(self, event: Event) -> None:
        self.driver.feed(event)
        self.core.check()

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now() + seconds)
        self.core.check()

    def join(self, worker_id: str = "w", *, seqs: int = 1, blocks: int = 1000, model: str = MODEL) -> None:
        self.feed(WorkerJoined(worker_id, f"host:{worker_id}", model, 100_000, seqs, 16, blocks))
        self.feed(FleetKnown())

    def load(self, worker_id: str, *, waiting: int = 0, draining: bool = False, step: float = 0.0) -> None:
        self.feed(LoadReported(worker_id, num_waiting=waiting, draining=draining, step_seconds=step))

    def cache(self, worker_id: str, blocks: Sequence[int]) -> None:
        self.feed(CacheReported(worker_id, stored=blocks))

    def lose_worker(self, worker_id: str) -> None:
        for key, place in list(self.running.items()):
            if place.worker_id == worker_id:
                del self.running[key]
        self.feed(WorkerLost(worker_id))

    def submit(
        self,
        call_id: str,
        program_id: str = "p",
        *,
        prompt: int = 16,
        output: int = 16,
        blocks: Sequence[int] = (),
        priority: int = 0,
        timeout: float = 0.0,
        tenant: str = "",
        model: str = MODEL,
        link: int = 1,
        attempt: int = 0,
        worker_id: str = "",
    ) -> None:
        self.feed(
            CallSubmitted(
                link,
                program_id,
                call_id,
                model,
                prompt_tokens=max(prompt, 16 * len(blocks)),
                max_tokens=output,
                tenant=tenant,
                block_hashes=blocks,
                priority=priority,
                queue_timeout_seconds=timeout,
                attempt=attempt,
                worker_id=worker_id,
            )
        )
        self.run()

    def finish(self, call_id: str, program_id: str = "p", seconds: float = 1.0, tokens: int = 16) -> None:
        self.running.pop((program_id, call_id), None)
        usage = TokenUsage(completion_tokens=tokens)
        self.feed(CallFinished(program_id, call_id, completed=True, usage=usage, service_seconds=seconds))
        self.run()

    def lose(self, call_id: str, attempt: int, generated: int = 0, program_id: str = "p") -> None:
        self.feed(CallLost(program_id, call_id, attempt, generated))
        self.run()

    def _perform(self, action: Action) -> None:
        self.actions.append(action)
        if not isinstance(action, Place):
            return
        key = (action.program_id, action.call_id)
        self.running[key] = action
        if self.runs_seconds is not None:
            seconds = self.seconds.get(key, self.runs_seconds)
            self.clock.call_at(self.clock.now() + seconds, lambda: self._end(action, seconds))

    def _end(self, place: Place, seconds: float) -> None:
        if self.running.get((place.program_id, place.call_id)) is place:
            self.finish(place.call_id, place.program_id, seconds)
