"""The simulated engine's core: who may take whose place, what it costs to come back, and what bringing KV costs."""

import pytest

from services.worker.preemption import Preemption
from services.worker.simulated.events import Shape
from tests.worker.simulated_bench import BLOCK, Bench, hashes


def preemptive(num_blocks: int = 1000, num_seqs: int = 2, quanta: tuple[int, ...] = (), margin: int = 1) -> Shape:
    return Shape(num_blocks, BLOCK, num_seqs, 64, preemption=Preemption(margin, 4, quanta))


def test_an_urgent_call_takes_the_slot_of_the_least_urgent_and_gives_it_back() -> None:
    bench = Bench(preemptive(), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, priority=1)
    bench.submit(2, prompt=8, output=20, priority=2, hashes=hashes(2, 28))
    bench.run(until=6.5)
    bench.submit(3, prompt=8, output=2)
    bench.run()
    assert bench.times(3) == [8.0, 9.0]
    assert [bench.ended[key].num_preemptions for key in (1, 2, 3)] == [0, 1, 0]
    assert bench.times(1)[-1] == 20.0
    # Out for two steps; the one that computes again what its last block held gives a token too.
    assert bench.times(2)[-1] == 21.0 + 2.0


def test_without_the_option_it_waits_for_its_turn() -> None:
    bench = Bench(Shape(1000, BLOCK, 1, 64), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, priority=1)
    bench.run(until=6.5)
    bench.submit(2, prompt=8, output=2)
    bench.run()
    assert bench.times(2) == [21.0, 22.0]


@pytest.mark.parametrize("late", [False, True])
def test_a_call_is_left_in_peace_until_it_has_had_its_tokens(late: bool) -> None:
    bench = Bench(preemptive(num_seqs=1), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, priority=1)
    bench.run(until=10.5 if late else 1.5)
    bench.submit(2, prompt=8, output=2)
    bench.run()
    # Its fourth token is there at 4.
    assert bench.times(2)[0] == (12.0 if late else 5.0)


def test_who_is_not_less_urgent_by_the_margin_is_left_in_peace() -> None:
    bench = Bench(preemptive(num_seqs=1, margin=2), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, priority=1)
    bench.run(until=10.5)
    bench.submit(2, prompt=8, output=2)
    bench.run()
    assert bench.times(2)[0] == 21.0


def test_nobody_is_preempted_if_that_would_not_make_room() -> None:
    bench = Bench(preemptive(num_blocks=20, num_seqs=3), step_seconds=1.0)
    bench.submit(1, prompt=40, output=20, priority=0)
    bench.submit(2, prompt=8, output=10, priority=1)
    bench.run(until=6.5)
    bench.submit(3, prompt=60, output=2)
    bench.run()
    assert [bench.ended[key].num_preemptions for key in (1, 2, 3)] == [0, 0, 0]
    assert bench.times(3)[0] == 21.0


def test_room_is_made_of_several_calls_the_least_urgent_first() -> None:
    bench = Bench(preemptive(num_blocks=20, num_seqs=8), step_seconds=1.0)
    for key, priority in ((1, 2), (2, 1), (3, 3)):
        bench.submit(key, prompt=16, output=10, priority=priority)
    bench.run(until=5.5)
    bench.submit(4, prompt=40, output=2)
    bench.run()
    assert bench.times(4)[0] == 7.0
    assert [bench.ended[key].num_preemptions for key in (1, 2, 3)] == [1, 0, 1]


def test_a_call_loses_priority_with_each_quantum() -> None:
    """As in a multi-level feedback queue: who comes late and needs little overtakes who has had much."""
    bench = Bench(preemptive(num_seqs=1, quanta=(8, 16)), step_seconds=1.0)
    bench.submit(1, prompt=8, output=40)
    bench.run(until=3.5)
    bench.submit(2, prompt=8, output=4)
    bench.run(until=20.5)
    bench.submit(3, prompt=8, output=12, priority=1)
    bench.run()
    # At 8 the first one has had its quantum; with 24 tokens it falls below the third one too.
    assert bench.times(2)[0] == 9.0
    assert bench.times(3)[0] > 8.0 + 4 + 16
    assert bench.times(3)[-1] < bench.times(1)[-1]
    assert bench.ended[1].num_preemptions == 2


def test_a_waiting_call_made_urgent_gets_in() -> None:
    bench = Bench(preemptive(num_seqs=1), step_seconds=1.0)
    bench.submit(1, prompt=8, output=30, priority=5)
    bench.submit(2, prompt=8, output=2, priority=5)
    bench.run(until=9.5)
    bench.prioritize(2, 0)
    bench.prioritize(99, 0)
    bench.run()
    assert bench.times(2)[0] == 11.0


def test_a_running_call_made_less_urgent_gives_way() -> None:
    bench = Bench(preemptive(num_seqs=1), step_seconds=1.0)
    bench.submit(1, prompt=8, output=30)
    bench.submit(2, prompt=8, output=2)
    bench.run(until=9.5)
    bench.prioritize(1, 3)
    bench.run()
    assert bench.times(2)[0] == 11.0


def loading(tokens_per_second: float, swap: bool = False, num_blocks: int = 1000) -> Shape:
    return Shape(num_blocks, BLOCK, 8, 16, load_tokens_per_second=tokens_per_second, swap=swap)


def test_a_call_waits_for_what_is_brought_and_others_run_on() -> None:
    bench = Bench(loading(10.0), step_seconds=1.0)
    bench.submit(1, prompt=4, output=9)
    bench.run(until=1.5)
    bench.submit(2, prompt=40, output=2, hashes=hashes(2, 40), brought_tokens=36)
    bench.run()
    # It is let in at 2, its 36 tokens are there at 5.6, and it joins the step that begins then.
    assert bench.times(2) == [7.0, 8.0]
    assert bench.times(1) == [float(second) for second in range(1, 10)]
    assert (bench.ended[2].cached_tokens, bench.ended[2].prefill_seconds) == (36, 5.0)


def test_an_idle_engine_begins_when_the_kv_is_there() -> None:
    bench = Bench(loading(10.0), step_seconds=1.0)
    bench.submit(1, prompt=40, output=2, brought_tokens=36)
    bench.run()
    assert bench.times(1) == pytest.approx([4.6, 5.6])


def test_loads_share_the_link_and_cached_blocks_are_not_loaded() -> None:
    bench = Bench(loading(10.0), step_seconds=1.0)
    bench.submit(1, prompt=20, output=1, hashes=hashes(1, 20))
    bench.run()
    assert bench.clock.now() == 2.0
    bench.submit(2, prompt=40, output=1, hashes=hashes(1, 40), brought_tokens=36)
    bench.submit(3, prompt=40, output=1, hashes=hashes(3, 40), brought_tokens=36)
    bench.run()
    # 16 tokens until 3.6, then 36 more until 7.2.
    assert bench.times(2) == pytest.approx([4.6])
    assert bench.times(3) == pytest.approx([8.2])


def test_a_call_can_be_aborted_while_its_kv_is_brought() -> None:
    bench = Bench(loading(1.0), step_seconds=1.0)
    bench.submit(1, prompt=40, output=2, brought_tokens=36)
    bench.run(until=3.0)
    bench.abort(1)
    assert bench.reports[-1][1].counters.kv_usage == 0
    bench.run()
    assert bench.core.next_tick() is None


@pytest.mark.parametrize(("swap", "again"), [(False, 2), (True, 1)])
def test_what_was_swapped_out_is_brought_back_and_not_computed(swap: bool, again: int) -> None:
    """Without names for its blocks, a preempted call finds nothing in the cache."""
    bench = Bench(loading(float("inf"), swap, num_blocks=13), step_seconds=1.0)
    bench.submit(1, prompt=24, output=10)
    bench.submit(2, prompt=16, output=10)
    bench.run()
    assert bench.ended[2].num_preemptions == 1
    freed = bench.times(1)[-1]
    assert bench.tokens[2] == 10
    first_again = next(when for when in bench.times(2) if when > freed)
    assert first_again == freed + again
