"""The retention bench: timelines, the limit, and the pool's core run over them."""

from math import inf

import pytest

from bench.retention import pool
from bench.retention.limit import Limit
from bench.retention.moments import compulsory_seconds, peak_blocks, reuses
from bench.retention.timeline import Request, requests
from services.kvpool import retention
from services.kvpool.cost import Costs
from sim.trace import Call, Program, Segment

TOKENS = 100


def _request(at: float, name: str, blocks: list[int], next_use: float = inf) -> Request:
    return Request(at, at + 0.5, name, "", "agent", "0/agent", blocks, len(blocks), next_use)


def _cycle(num_programs: int, rounds: int) -> list[Request]:
    """Programs of 4 blocks each, one after the other, round and round."""
    made: list[Request] = []
    for turn in range(rounds * num_programs):
        number, last = turn % num_programs, turn >= (rounds - 1) * num_programs
        blocks = [number * 100 + at for at in range(4)]
        made.append(_request(float(turn), f"p{number}", blocks, inf if last else float(turn + num_programs)))
    return made


def test_a_timeline_follows_parents_and_caps_waits_for_people() -> None:
    segments = (Segment("s", 40),)
    first = Call(0, "main", 0, (), (0,), 10, wait_s=0.0)
    second = Call(1, "main", 0, (0,), (0,), 10, wait_s=1000.0, wait_kind="user")
    [one, two] = requests([Program("p", "w", segments, (first, second))], 10)
    assert two.at == pytest.approx(one.end + 60.0)
    assert (one.next_use, two.next_use) == (two.at, inf)
    assert one.blocks == two.blocks


def test_what_can_be_spared_is_counted_once() -> None:
    timeline = _cycle(3, 4)
    assert peak_blocks(timeline) == 12
    assert len(list(reuses(timeline))) == 9
    assert compulsory_seconds(timeline, TOKENS, Costs()) == pytest.approx(3 * Costs().recompute_seconds(0, 4 * TOKENS))


@pytest.mark.parametrize("kept", [2, 3, 4])
def test_in_a_cycle_belady_hits_as_theory_says_and_lru_never(kept: int) -> None:
    # n prompts in turn, room for k of them, all stored: (k - 1) / (n - 1) hits (KVFlow; algorithms.md 1.3).
    timeline = _cycle(5, 60)
    belady = pool.run(timeline, TOKENS, 4 * kept, "belady", foresight="next", declared=False)
    assert belady.hit_share == pytest.approx((kept - 1) / 4, abs=0.02)
    assert pool.run(timeline, TOKENS, 4 * kept, "lru", declared=False).hit_share == 0.0
    limit = Limit(timeline, TOKENS, Costs())
    assert limit.seconds(20) == pytest.approx(limit.compulsory_seconds)
    # Who need not store all can hold k of n.
    spared = 1 - (limit.seconds(4 * kept) - limit.compulsory_seconds) / limit.avoidable_seconds
    assert spared == pytest.approx(kept / 5, abs=0.03)


@pytest.mark.parametrize("policy", retention.names())
def test_no_policy_is_below_the_limit_and_with_room_all_reach_it(policy: str) -> None:
    timeline = _cycle(4, 6)
    limit = Limit(timeline, TOKENS, Costs())
    for blocks in (4, 8, 11):
        assert pool.run(timeline, TOKENS, blocks, policy).recompute_seconds >= limit.seconds(blocks) - 1e-9
    room = pool.run(timeline, TOKENS, 64, policy)
    assert room.recompute_seconds == pytest.approx(limit.compulsory_seconds)
    assert room == pool.run(timeline, TOKENS, 64, policy)
