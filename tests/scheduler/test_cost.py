"""What an event costs must not grow with the queue: counted, not timed."""

import random
from collections.abc import Iterable, Sequence

from services.scheduler.replica_index import Held
from tests.scheduler.stage import Stage

NUM_WORKERS = 10
NUM_EVENTS = 100


def judged_per_event(num_queued: int, name: str) -> float:
    """Calls for which workers are compared, per submit and finish, at a queue of that length."""
    draw = random.Random(5)
    stage = Stage(ordering=name, max_queued_calls=num_queued + NUM_EVENTS)
    stage.core.check = lambda: None  # walks over everything
    for i in range(NUM_WORKERS):
        stage.join(f"w{i}", seqs=8, blocks=10_000)
        stage.cache(f"w{i}", range(1000 * i, 1000 * i + 100))
    for i in range(NUM_WORKERS * 9 + num_queued):
        home = 1000 * draw.randrange(NUM_WORKERS)
        stage.submit(f"c{i}", f"p{draw.randrange(200)}", blocks=range(home, home + 100))
    assert len(stage.core.queue) == num_queued
    before = stage.core.dispatch.num_judged
    for i in range(NUM_EVENTS):
        key = draw.choice(sorted(stage.running))
        stage.finish(key[1], key[0])
        stage.submit(f"n{i}", f"p{draw.randrange(200)}", blocks=range(100))
        stage.clock.run(stage.clock.now() + 0.01)
    return (stage.core.dispatch.num_judged - before) / NUM_EVENTS


def test_the_work_per_event_does_not_grow_with_the_queue() -> None:
    for name in ("fcfs", "atlas"):
        short, long = judged_per_event(200, name), judged_per_event(4_000, name)
        assert long <= 1.5 * short + 2, (name, short, long)
        assert long < 16, (name, long)


def test_pools_are_searched_once_for_each_call_that_is_judged_however_many_workers_there_are() -> None:
    draw = random.Random(5)
    stage = Stage(max_queued_calls=1000)
    for i in range(4):
        stage.pool(f"h{i}", dram=range(1000 * i, 1000 * i + 50), ssd=range(1000 * i + 50, 1000 * i + 100))
    for i in range(40):
        stage.join(f"w{i}", seqs=2, blocks=10_000, pool=f"h{i % 4}")
    index = stage.core.pools.index
    match, num_searches = index.match, 0

    def counted(namespace_id: str, block_hashes: Sequence[int], pool_ids: Iterable[str]) -> dict[str, Held]:
        nonlocal num_searches
        num_searches += 1
        return match(namespace_id, block_hashes, pool_ids)

    index.match = counted
    stage.core.check = lambda: None
    for i in range(300):
        home = 1000 * draw.randrange(4)
        stage.submit(f"c{i}", f"p{i}", blocks=range(home, home + 100))
        if i >= 150:
            key = draw.choice(sorted(stage.running))
            stage.finish(key[1], key[0])
            stage.clock.run(stage.clock.now() + 0.01)
    assert len(stage.placed) > 200
    assert num_searches <= stage.core.dispatch.num_judged + len(stage.placed)


def test_a_submit_behind_a_long_queue_starts_no_pass() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    for i in range(200):
        stage.submit(f"c{i}")
    before = stage.core.dispatch.num_judged
    for i in range(200, 300):
        stage.submit(f"c{i}")
    assert stage.core.dispatch.num_judged == before


def test_timers_do_not_pile_up() -> None:
    stage = Stage(ordering="atlas")
    stage.join(seqs=4)
    for i in range(500):
        stage.submit(f"c{i}", f"p{i % 5}", timeout=1000.0)
        stage.finish(f"c{i}", f"p{i % 5}")
    due = stage.core.next_tick()
    assert due is not None
    assert due >= 3600.0, "only the programs' expiry is left"
