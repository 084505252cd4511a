"""What must hold of the scheduler's core after every event; for tests and for doubts."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import isclose
from operator import itemgetter, mul
from typing import TYPE_CHECKING

from services.scheduler.prefixes import depth
from services.scheduler.records import Call

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
    core.knowledge.forecasts.check()
    _check_hand_offs(core)
    for model in {call.model for call in queued}:
        core.dispatch.check(model)
    _check_workers(core)
    _check_programs(core)
    _check_lobby(core)
    _check_residents(core)


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
        blocks = _blocks(calls)
        chosen_blocks = blocks if len(chosen) == len(calls) else _blocks(chosen)
        assert chosen_blocks <= worker.description.num_blocks or len(chosen) == 1, f"{worker.worker_id} has too much KV"
        assert worker.kv_blocks == blocks, "KV blocks do not add up"
        assert worker.uncached_tokens == sum(call.uncached_tokens for call in calls), "prefill backlog does not add up"
        assert worker.ends == sorted(call.expected_end for call in calls), "expected ends do not match the calls"
        assert all(call.worker_id == worker.worker_id for call in calls), "a call sits on another worker than it says"


def _blocks(calls: list[Call]) -> int:
    """What they need, blocks that several have counted once."""
    marks = set[tuple[int, int]]().union(*(enumerate(call.placed_marks) for call in calls))
    at = Counter(map(itemgetter(0), marks))
    prompts = sum(map(mul, map(_step, at), at.values()))
    return prompts + sum(call.kv_blocks - depth(len(call.placed_marks)) for call in calls)


@cache
def _step(mark: int) -> int:
    """Blocks between this mark and the one before."""
    return depth(mark + 1) - depth(mark)


def _check_programs(core: Core) -> None:
    queued = Counter(call.program.program_id for call in core.calls.values() if not call.worker_id)
    running = Counter(call.program.program_id for call in core.calls.values() if call.worker_id)
    for call in core.calls.values():
        assert core.programs.get(call.program.program_id) is call.program, "a call of a program that is not live"
    for program in core.programs.live():
        assert program.num_queued == queued[program.program_id], f"{program.program_id}: queued calls do not add up"
        assert program.num_running == running[program.program_id], f"{program.program_id}: running calls do not add up"
        assert program.num_live or not program.ending, f"{program.program_id} should have ended"


def _check_lobby(core: Core) -> None:
    paused = [call for call in core.calls.values() if call.in_lobby]
    listed = [call for model in core.queue.lobbies() for call in core.queue.lobby(model, len(core.queue))]
    assert Counter(paused) == Counter(listed), "the lobby holds other calls than those that say so"
    assert all(not call.worker_id and not call.attempt and not call.shelved for call in paused), (
        "a call is in two rooms"
    )
    counts = Counter(call.program.program_id for call in paused)
    for program in core.programs.live():
        assert program.num_paused == counts[program.program_id], f"{program.program_id}: paused calls do not add up"


def _check_residents(core: Core) -> None:
    ledgers = list(core.residents.ledgers())
    contexts = [context for ledger in ledgers for row in ledger.programs.values() for context in row]
    of_workers = {ledger.worker_id: ledger.worker for ledger in ledgers}
    assert of_workers == {worker.worker_id: worker for worker in core.fleet.workers()}, "a ledger of another worker"
    served = Counter(context.call for context in contexts if context.call is not None)
    having = Counter(call for call in core.calls.values() if call.context is not None)
    assert served == having, "a call and its context do not agree"
    for call in core.calls.values():
        context = call.context
        assert context is None or not call.in_lobby, f"{call.key} waits for room and has some"
        if call.worker_id and not call.hand_off and core.fleet.get(call.worker_id) is not None:
            assert context is not None, f"{call.key} runs unaccounted"
            assert context.ledger.worker_id == call.worker_id, f"{call.key} is accounted elsewhere"
    idle = Counter((context.program.program_id, context.thread) for context in contexts if context.call is None)
    assert not idle or max(idle.values()) == 1, "a thread has two idle contexts"
    for context in contexts:
        assert context.program.ended is None, "a program that is over holds KV"
        assert context.call is not None or not context.program.ending, "a program that ends keeps idle KV"
        assert context.call is not None or context.ledger.open, "KV is kept where it cannot stay"
        assert 0 <= context.shared <= context.blocks, "a context shares more than it has"
    for ledger in ledgers:
        row = [context for each in ledger.programs.values() for context in each]
        live = [context for context in row if context.call is not None]
        resting = [context for context in row if context.call is None]
        assert ledger.num_live == len(live), "live contexts do not add up"
        assert ledger.num_idle == len(resting) == len(ledger.pausable), "idle contexts do not add up"
        assert ledger.live_blocks == sum(context.own_blocks for context in live), (
            "blocks of live contexts do not add up"
        )
        assert ledger.idle_blocks == sum(context.own_blocks for context in resting), "idle blocks do not add up"
        weighed = sum(context.own_blocks * context.weight for context in resting)
        assert isclose(ledger.weighed_blocks, weighed, abs_tol=1e-6), "weighed blocks do not add up"
        beyond = sum(context.blocks - depth(len(context.marks)) for context in row)
        paid = sum(context.own_blocks for context in row)
        assert paid == ledger.prefixes.blocks + beyond, "what contexts share does not add up"
