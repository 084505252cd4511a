"""What an event costs must not grow with the queue: counted, not timed."""

import random

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
    before = stage.core.num_judged
    for i in range(NUM_EVENTS):
        key = draw.choice(sorted(stage.running))
        stage.finish(key[1], key[0])
        stage.submit(f"n{i}", f"p{draw.randrange(200)}", blocks=range(100))
        stage.clock.run(stage.clock.now() + 0.01)
    return (stage.core.num_judged - before) / NUM_EVENTS


def test_the_work_per_event_does_not_grow_with_the_queue() -> None:
    for name in ("fcfs", "least_attained"):
        short, long = judged_per_event(200, name), judged_per_event(4_000, name)
        assert long <= 1.5 * short + 2, (name, short, long)
        assert long < 16, (name, long)


def test_a_submit_behind_a_long_queue_starts_no_pass() -> None:
    stage = Stage(lookahead_calls=0)
    stage.join()
    for i in range(200):
        stage.submit(f"c{i}")
    before = stage.core.num_judged
    for i in range(200, 300):
        stage.submit(f"c{i}")
    assert stage.core.num_judged == before


def test_timers_do_not_pile_up() -> None:
    stage = Stage(ordering="least_attained")
    stage.join(seqs=4)
    for i in range(500):
        stage.submit(f"c{i}", f"p{i % 5}", timeout=1000.0)
        stage.finish(f"c{i}", f"p{i % 5}")
    due = stage.core.next_tick()
    assert due is not None
    assert due >= 3600.0, "only the programs' expiry is left"
