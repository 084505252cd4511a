"""What must hold of the scheduler's core after every event; for tests and for doubts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.scheduler.core import Core


def check(core: Core) -> None:
    """Raise AssertionError naming what does not hold."""
    queued = [call for call in core.calls.values() if not call.worker_id]
    placed = [call for call in core.calls.values() if call.worker_id]
    assert len(core.queue) == len(queued), "the queue counts other calls than those without a worker"
    assert all(call in core.queue for call in queued), "a call without a worker is not in the queue"
    on_workers = [call for worker in core.fleet.workers() for call in worker.placed.values()]
    assert Counter([*on_workers, *core.fleet.adrift()]) == Counter(placed), "a placed call is on no worker, or on two"
    linked = [call for link in core.calls.links() for call in core.calls.of_link(link)]
    assert Counter(linked) == Counter(core.calls.values()), "a call is on no link, or on two"
    _check_hand_offs(core)
    _check_workers(core)
    _check_programs(core)


def _check_hand_offs(core: Core) -> None:
    for call in core.calls.values():
        assert not call.hand_off or call.worker_id, f"{call.key} waits and is prefilling"
        assert not call.hand_off or not call.handed_off, f"{call.key} is shared twice"
        assert call.prefilled_at is None or not call.worker_id, f"{call.key} runs and waits for its decoding"
        assert call.prefilled_at is None or call.handed_off, f"{call.key} was prefilled by nobody"


def _check_workers(core: Core) -> None:
    for worker in core.fleet.workers():
        calls = list(worker.placed.values())
        chosen = [call for call in calls if not call.restored]
        seats = worker.description.max_num_seqs + core.limits.lookahead_calls
        assert len(chosen) <= seats, f"{worker.worker_id} has too many calls"
        blocks = sum(call.kv_blocks for call in chosen)
        assert blocks <= worker.description.num_blocks or len(chosen) == 1, f"{worker.worker_id} has too much KV"
        assert worker.kv_blocks == sum(call.kv_blocks for call in calls), "KV blocks do not add up"
        assert worker.uncached_tokens == sum(call.uncached_tokens for call in calls), "prefill backlog does not add up"
        assert worker.ends == sorted(call.expected_end for call in calls), "expected ends do not match the calls"
        assert all(call.worker_id == worker.worker_id for call in calls), "a call sits on another worker than it says"


def _check_programs(core: Core) -> None:
    queued = Counter(call.program.program_id for call in core.calls.values() if not call.worker_id)
    running = Counter(call.program.program_id for call in core.calls.values() if call.worker_id)
    for call in core.calls.values():
        assert core.programs.get(call.program.program_id) is call.program, "a call of a program that is not live"
    for program in core.programs.live():
        assert program.num_queued == queued[program.program_id], f"{program.program_id}: queued calls do not add up"
        assert program.num_running == running[program.program_id], f"{program.program_id}: running calls do not add up"
        assert program.num_live or not program.ending, f"{program.program_id} should have ended"
