"""Placing: a decision of placement entered in the ledgers, with the plan for the call's KV that goes with it."""

from services.common.cache_note import NO_NOTE, CacheNote
from services.common.errors import Reason
from services.common.urgency import engine_priority
from services.scheduler.cache_note import CacheNotes
from services.scheduler.dispatch import Assignment
from services.scheduler.engine_seconds import Speed
from services.scheduler.events import Action, CallSubmitted, Place, Reject
from services.scheduler.pool_events import Handle, KVPlan, Prefetch, Replica
from services.scheduler.pools import Pools
from services.scheduler.records import Call, Worker
from services.scheduler.waiting import WaitingRoom


def place(
    assignment: Assignment, waiting: WaitingRoom, pools: Pools, notes: CacheNotes, speed: Speed, now: float
) -> list[Action]:
    """Move a call from the queue to its worker's ledger; what its gateway and its pool are told."""
    call, worker, supply = assignment.call, assignment.worker, assignment.supply
    waited_seconds = now - call.queued_at
    waiting.leave(call, now)
    call.attempt += 1
    call.worker_id = worker.worker_id
    call.hand_off = assignment.hand_off
    call.kv_blocks = assignment.kv_blocks
    call.uncached_tokens = max(0, call.prompt_tokens - supply.blocks * worker.description.block_size)
    call.prefill_seconds = assignment.prefill_seconds
    call.placed_at = now
    call.expected_end = now + assignment.seconds
    call.program.num_running += 1
    call.program.use(worker.description.pool_id)
    worker.place(call)
    call.kv, prefetch = _plan(assignment, pools)
    call.prefilled_at = None
    placed = _answer(call, worker, speed, waited_seconds, notes.placed(call, worker))
    return [placed] if prefetch is None else [prefetch, placed]


def answer_again(event: CallSubmitted, call: Call, worker: Worker | None, speed: Speed) -> list[Action]:
    """What is told a gateway that submits a live call."""
    if call.link != event.link:
        return [Reject(event.link, *call.key, Reason.CALL_EXISTS, "another gateway has this call")]
    if worker is None or (call.attempt, call.worker_id) == (event.attempt, event.worker_id):
        return []
    return [_answer(call, worker, speed)]


def _answer(call: Call, worker: Worker, speed: Speed, waited_seconds: float = 0.0, cache: CacheNote = NO_NOTE) -> Place:
    where = (call.attempt, call.worker_id, worker.description.address, engine_priority(call.priority, call.level))
    expected_cached_tokens = call.prompt_tokens - call.uncached_tokens
    speeds = (speed.prefill_seconds, speed.step_seconds)
    return Place(call.link, *call.key, *where, expected_cached_tokens, waited_seconds, call.kv, cache, *speeds)


def _plan(assignment: Assignment, pools: Pools) -> tuple[KVPlan, Prefetch | None]:
    call, supply, description = assignment.call, assignment.supply, assignment.worker.description
    hashes, namespace_id = call.block_hashes, description.kv_namespace_id
    pool_id = description.pool_id
    retain_seconds = 0.0 if call.program.ending else None
    arriving_at = call.prefilled_at or ""
    arriving = pools.present(arriving_at)
    num_blocks = len(hashes) if arriving else supply.blocks
    empty = KVPlan(hand_off=assignment.hand_off, retain_seconds=retain_seconds)
    if num_blocks <= supply.cached_blocks or not pools.present(pool_id):
        return empty, None
    if (reach := pools.reach(namespace_id, hashes, arriving_at, (pool_id,))) is None:
        return empty, None
    own, other_id = reach.own(pool_id), reach.other(pool_id)
    other = reach.own(other_id)
    num_blocks = min(num_blocks, max(own.total, other.total))  # the decision may be a moment old
    if num_blocks <= supply.cached_blocks:
        return empty, None
    handle = Handle(namespace_id, hashes[num_blocks - 1], num_blocks)
    replica: Replica | None = None
    if own.total < num_blocks:
        replica = pools.replica(other_id, other, num_blocks)
    lease_id, prefetch = "", None
    if not arriving:  # else the call asks sooner than there is anything to prefetch
        wanted = hashes[supply.cached_blocks : num_blocks]
        if replica is not None or pools.index.num_in_dram(pool_id, namespace_id, wanted) < len(wanted):
            lease_id = f"{call.key[0]}/{call.key[1]}/{call.attempt}"
            prefetch = Prefetch(pool_id, handle, replica, lease_id)
    plan = KVPlan(handle, replica, lease_id, assignment.hand_off, retain_seconds, arriving)
    return plan, prefetch
