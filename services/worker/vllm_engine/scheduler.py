"""vLLM's scheduler with preemption on admission, quanta and `set_priority`. See services/worker/preemption.py.

vLLM itself preempts only when a running request finds no block, so a waiting one of high priority waits for others to
end. Here, before each step, the first waiting request that could run takes the place of running ones that are less
urgent by the margin and have had their tokens, if that makes enough room; at most one each step. All else is
vLLM's. A preempted request's blocks stay in the prefix cache, and in the KV pool if there is one, until others need
them; its output goes on where it was.

This leans on what vLLM does not promise: `missing` says what of it is not there. Imported in the EngineCore's process.
"""

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from services.worker.preemption import Preemption

SETTINGS = "legato_preemption"
"""Key of `Preemption` in vLLM's additional_config."""
SET_PRIORITY = "legato_set_priority"
"""The EngineCore's utility call (request id as given to vLLM, priority): whether it was done."""

_LEANT_ON = (
    "_free_request",
    "_is_blocked_waiting_status",
    "_preempt_request",
    "_request_blocks_can_be_freed",
    "pause_state",
    "schedule",
)


def missing() -> list[str]:
    """What the installed vLLM lacks for this."""
    return [name for name in _LEANT_ON if not hasattr(Scheduler, name)]


def class_name(*, asynchronous: bool) -> str:
    """The class for vLLM's `scheduler_cls`."""
    scheduler = AsyncPreemptiveScheduler if asynchronous else PreemptiveScheduler
    return f"{scheduler.__module__}.{scheduler.__qualname__}"


def chosen(config: VllmConfig) -> bool:
    """Whether an engine of that configuration schedules with one of these."""
    return config.scheduler_config.scheduler_cls in (class_name(asynchronous=True), class_name(asynchronous=False))


def additional_config(preemption: Preemption) -> dict[str, Any]:
    """For vLLM's `additional_config`."""
    return {SETTINGS: asdict(preemption)}


@dataclass(slots=True)
class _Turn:
    """A request's time in the batch, since it was last admitted."""

    num_preemptions: int
    began: int
    """Output tokens then."""
    quantum_end: int | None
    """Output tokens at which it loses priority."""


class PreemptiveScheduler(Scheduler):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = cast("dict[str, Any]", cast(Any, self.vllm_config).additional_config)  # vLLM types it by half
        self._preemption = Preemption(**settings[SETTINGS])
        self._turns: dict[str, _Turn] = {}

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        for request in self.running:
            self._demote(request)
        if self.running and self.pause_state == PauseState.UNPAUSED:
            self._make_way()
        return super().schedule(*args, **kwargs)

    def set_priority(self, request: Request, priority: int) -> None:
        """Give a request another priority, and a fresh quantum; it is where that puts it from the next step on."""
        if request.priority == priority:
            return
        queues = [queue for queue in (self.waiting, self.kv_holding_waiting) if request in queue]
        for queue in queues:
            queue.remove_request(request)
        request.priority = priority
        for queue in queues:
            queue.add_request(request)
        if (turn := self._turns.get(request.request_id)) is not None:
            turn.quantum_end = self._quantum_end(request)

    def find(self, request_id: str) -> Request | None:
        """The live request that was given to vLLM under that id, to which vLLM adds a suffix of its own."""
        named = (request for request_id_, request in self.requests.items() if _outer(request_id_) == request_id)
        return next(named, None)

    def _demote(self, request: Request) -> None:
        turn = self._turns.get(request.request_id)
        if turn is None:
            quantum_end = self._quantum_end(request)
            turn = _Turn(request.num_preemptions, request.num_output_tokens, quantum_end)
            self._turns[request.request_id] = turn
        elif turn.num_preemptions != request.num_preemptions:
            turn.num_preemptions, turn.began = request.num_preemptions, request.num_output_tokens
        if turn.quantum_end is not None and request.num_output_tokens >= turn.quantum_end:
            self.set_priority(request, request.priority + 1)

    def _quantum_end(self, request: Request) -> int | None:
        quantum = self._preemption.quantum(request.priority)
        return None if quantum is None else request.num_output_tokens + quantum

    def _make_way(self) -> None:
        """Preempt for the first waiting request that could run, if it finds no room and that helps."""
        worst = max(request.priority for request in self.running)
        waiting = itertools.chain(self.kv_holding_waiting, self.waiting)
        able = (request for request in waiting if not self._is_blocked_waiting_status(request.status))
        first = next(able, None)
        if first is None or worst - first.priority < self._preemption.margin:
            return
        slots = self.max_num_active_reqs - len(self.running) - self.num_waiting_for_streaming_input
        lacking = self._num_blocks(first) - self.kv_cache_manager.block_pool.get_num_free_blocks()
        if slots > 0 and lacking <= 0:
            return
        for victim in self._victims(first, lacking, slots):
            self.running.remove(victim)
            self._preempt_request(victim, time.monotonic(), drop_stale_output=self.requires_kv_delivery)
            self.prev_step_scheduled_req_ids.discard(victim.request_id)

    def _victims(self, first: Request, lacking: int, slots: int) -> list[Request]:
        """Whom to preempt, the least urgent first; nobody if it would not do."""
        worst = first.priority + self._preemption.margin
        able = [request for request in self.running if request.priority >= worst and self._may_go(request)]
        able.sort(key=lambda request: (request.priority, request.arrival_time), reverse=True)
        for count, victim in enumerate(able, 1):
            groups = self.kv_cache_manager.get_blocks(victim.request_id).blocks
            lacking -= sum(block.ref_cnt == 1 for block in itertools.chain.from_iterable(groups))
            if lacking <= 0 and slots + count > 0:
                return able[:count]
        return []

    def _may_go(self, request: Request) -> bool:
        had = request.num_output_tokens - self._turns[request.request_id].began
        return had >= self._preemption.min_tokens and self._request_blocks_can_be_freed(request)

    def _num_blocks(self, request: Request) -> int:
        """How many of the free blocks a waiting request takes for its whole prompt: cached ones that nobody holds are
        among the free."""
        left = request.num_tokens - request.num_computed_tokens
        blocks = -(-left // self.block_size) * len(self.kv_cache_config.kv_cache_groups)
        if request.num_computed_tokens:
            return blocks
        cached = self.kv_cache_manager.get_computed_blocks(request)[0].blocks
        return blocks - sum(block.ref_cnt > 0 for block in itertools.chain.from_iterable(cached))

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._turns.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)


class AsyncPreemptiveScheduler(PreemptiveScheduler, AsyncScheduler):
    """The same for an engine that schedules a step ahead, as on a GPU."""


def _outer(request_id: str) -> str:
    return request_id.rpartition("-")[0]


def _set_priority(core: EngineCore, request_id: str, priority: int) -> bool:
    scheduler = core.scheduler
    request = scheduler.find(request_id) if isinstance(scheduler, PreemptiveScheduler) else None
    if request is not None:
        cast(PreemptiveScheduler, scheduler).set_priority(request, priority)
    return request is not None


setattr(EngineCore, SET_PRIORITY, _set_priority)
