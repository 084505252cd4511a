"""A scheduler core on a virtual clock, with engines that run what they are given at a fixed pace."""

from collections.abc import Sequence

from services.common.clock import VirtualClock
from services.common.driver import Driver
from services.common.forecast import NO_FORECAST, Forecast
from services.scheduler.config import SchedulerSection
from services.scheduler.core import Core
from services.scheduler.events import (
    Action,
    CacheReported,
    CallFinished,
    CallHandedOff,
    CallKey,
    CallLost,
    CallStarted,
    CallSubmitted,
    Event,
    FleetKnown,
    LoadReported,
    Place,
    PoolJoined,
    PoolReported,
    Prefetch,
    Reject,
    ReleaseProgram,
    Role,
    RoleChanged,
    TokenUsage,
    WorkerJoined,
    WorkerLost,
)
from services.scheduler.pool_events import ReplicaUpdate

MODEL = "m"
NAMESPACE = "n"
BLOCK_BYTES = 2**21
"""With a pool's assumed speeds: 0.4 ms from its memory, 2 ms from its disk or from another pool."""


class Stage:
    """Checks the core after each event. `runs_seconds`: what engines take for a call; None: calls end when told to."""

    def __init__(self, runs_seconds: float | None = None, **settings: object) -> None:
        section = SchedulerSection.model_validate({"ordering": "fcfs", **settings})
        self.clock = VirtualClock()
        self.core = Core(section.limits(), section.load_policy())
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
    def prefetches(self) -> list[Prefetch]:
        """All prefetches so far."""
        return [action for action in self.actions if isinstance(action, Prefetch)]

    @property
    def released(self) -> list[tuple[str, list[str]]]:
        """(program, pools) of all releases so far."""
        releases = [action for action in self.actions if isinstance(action, ReleaseProgram)]
        return [(release.program_id, list(release.pool_ids)) for release in releases]

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

    def join(
        self,
        worker_id: str = "w",
        *,
        seqs: int = 1,
        blocks: int = 1000,
        model: str = MODEL,
        context: int = 100_000,
        running: int = 0,
        known: bool = True,
        role: Role = Role.BOTH,
        pool: str = "",
        namespace: str = NAMESPACE,
        prefill: float = 0.0,
        step: float = 0.0,
        block_size: int = 16,
    ) -> None:
        """`running`: calls that it has already. `known`: the fleet is complete by that. `prefill`: tokens a second."""
        load = LoadReported(worker_id, running, step_seconds=step, prefill_tokens_per_second=prefill)
        kv = (role, pool, namespace if pool else "", BLOCK_BYTES if pool else 0)
        self.feed(WorkerJoined(worker_id, f"host:{worker_id}", model, context, seqs, block_size, blocks, load, (), *kv))
        if known:
            self.feed(FleetKnown())

    def load(
        self, worker_id: str, *, running: int = 0, waiting: int = 0, draining: bool = False, step: float = 0.0
    ) -> None:
        self.feed(LoadReported(worker_id, running, waiting, step_seconds=step, draining=draining))

    def cache(self, worker_id: str, blocks: Sequence[int]) -> None:
        self.feed(CacheReported(worker_id, stored=blocks))

    def pool(
        self, pool_id: str, dram: Sequence[int] = (), ssd: Sequence[int] = (), removed: Sequence[int] = ()
    ) -> None:
        """The pool answers, if it did not before, and has or has no longer these blocks."""
        if not self.core.pools.present(pool_id):
            self.feed(PoolJoined(pool_id, f"data:{pool_id}", 10**12))
        self.feed(PoolReported(pool_id, [ReplicaUpdate(NAMESPACE, dram, ssd, removed)]))

    def role(self, worker_id: str, role: Role) -> None:
        self.feed(RoleChanged(worker_id, role))
        self.run()

    def hand_off(
        self, call_id: str, attempt: int, program_id: str = "p", *, generated: int = 1, link: int | None = None
    ) -> None:
        """The gateway says that the call is prefilled."""
        link = self._link(program_id, call_id) if link is None else link
        self.feed(CallHandedOff(link, program_id, call_id, attempt, generated))
        self.run()

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
        agent: str = "",
        thread: str = "",
        forecast: Forecast = NO_FORECAST,
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
                agent=agent,
                thread=thread,
                forecast=forecast,
            )
        )
        self.run()

    def finish(
        self,
        call_id: str,
        program_id: str = "p",
        seconds: float = 1.0,
        tokens: int = 16,
        *,
        link: int | None = None,
        attempt: int = 0,
        completed: bool = True,
        prompt: int = 0,
        cached: int = 0,
    ) -> None:
        """`link`: by default the one that has the call. `prompt`, `cached`: tokens, as the engine tells."""
        self.running.pop((program_id, call_id), None)
        link = self._link(program_id, call_id) if link is None else link
        usage = TokenUsage(prompt, tokens, cached)
        self.feed(CallFinished(link, program_id, call_id, completed, usage, seconds, attempt))
        self.run()

    def start(self, call_id: str, program_id: str = "p", attempt: int = 0) -> None:
        self.feed(CallStarted(self._link(program_id, call_id), program_id, call_id, attempt))

    def lose(
        self, call_id: str, attempt: int, generated: int = 0, program_id: str = "p", *, link: int | None = None
    ) -> None:
        link = self._link(program_id, call_id) if link is None else link
        self.feed(CallLost(link, program_id, call_id, attempt, generated))
        self.run()

    def _link(self, program_id: str, call_id: str) -> int:
        call = self.core.calls.get((program_id, call_id))
        return 0 if call is None else call.link

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
