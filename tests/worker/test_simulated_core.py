"""The simulated engine's core in virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.simulated.core import Core
from services.worker.simulated.events import End, Progress, Receipt, Shape, Submitted
from tests.worker.simulated_bench import BLOCK, Bench, constant, hashes, shape


def test_a_prompt_is_prefilled_in_chunks_and_then_gives_a_token_a_step() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=40, output=3)
    bench.run()
    assert bench.times(1) == [3.0, 4.0, 5.0]
    assert bench.ended[1] == Receipt(End.DONE, 0, 0.0, 3.0, 2.0, 0)
    assert bench.core.next_tick() is None


def test_a_call_that_comes_during_a_step_joins_the_next_one() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=4, output=5)
    bench.run(until=1.5)
    bench.submit(2, prompt=4, output=1)
    bench.run()
    assert bench.times(2) == [3.0]
    assert bench.ended[2].queue_seconds == 0.5


def test_decoding_goes_on_while_another_call_prefills() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=4, output=6)
    bench.submit(2, prompt=40, output=1)
    bench.run()
    assert bench.times(1) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert bench.times(2) == [4.0]


def test_reports_come_at_the_interval_and_at_both_ends() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=4, output=10, interval=4)
    bench.run()
    assert [p.num_tokens for _, report in bench.reports for p in report.progress] == [1, 5, 9, 10]


def test_waiting_calls_start_in_order_of_priority_and_arrival() -> None:
    bench = Bench(shape(num_seqs=1), step_seconds=1.0)
    for key, priority in ((1, 0), (2, 5), (3, 0), (4, -1)):
        bench.submit(key, prompt=4, output=2, priority=priority)
    bench.run()
    assert list(bench.ended) == [1, 4, 3, 2]


def test_the_next_turn_finds_prompt_and_output_of_the_last_one() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=18, output=6, hashes=hashes(1, 24))
    bench.run()
    bench.submit(2, prompt=40, output=2, hashes=hashes(1, 42))
    bench.run()
    # The last token's KV was never computed, so the block that it fills is not there.
    assert bench.ended[2].cached_tokens == 20


@pytest.mark.parametrize(("brought", "chunks"), [(0, 3), (12, 2), (32, 1), (40, 1), (999, 1)])
def test_what_is_brought_is_not_computed_but_for_the_last_token(brought: int, chunks: int) -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=40, output=3, hashes=hashes(1, 43), brought_tokens=brought)
    bench.run()
    assert bench.times(1) == [chunks, chunks + 1, chunks + 2]
    assert bench.ended[1].cached_tokens == min(brought, 36)
    assert bench.cached == set(hashes(1, 42))


def test_a_preempted_call_is_brought_again() -> None:
    bench = Bench(shape(num_blocks=10), step_seconds=1.0)
    for key in (1, 2):
        bench.submit(key, prompt=8, output=20, brought_tokens=8)
    bench.run()
    assert [bench.ended[key].num_preemptions for key in (1, 2)] == [0, 1]
    assert bench.tokens == {1: 20, 2: 20}


def test_calls_that_run_together_share_a_prefix() -> None:
    bench = Bench(shape(num_blocks=12, budget=64), step_seconds=1.0)
    bench.submit(1, prompt=20, output=9, hashes=hashes(1, 20))
    for key in (2, 3, 4):
        bench.submit(key, prompt=20, output=4, hashes=hashes(1, 20))
    bench.run(until=3.0)
    assert [bench.reports[-1][1].counters.num_running, bench.ended] == [4, {}]
    bench.run()
    assert [bench.ended[key].cached_tokens for key in (1, 2, 3, 4)] == [0, 16, 16, 16]


def test_a_prompt_that_is_cached_whole_still_computes_its_last_block() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    for key in (1, 2):
        bench.submit(key, prompt=16, output=2, hashes=hashes(1, 16))
        bench.run()
    assert bench.ended[2].cached_tokens == 12


def test_what_was_freed_first_is_evicted_first_and_tails_before_heads() -> None:
    bench = Bench(shape(num_blocks=10), step_seconds=1.0)
    for key in (1, 2):
        bench.submit(key, prompt=16, output=1, hashes=hashes(key, 16))
        bench.run()
    assert bench.cached == {*hashes(1, 16), *hashes(2, 16)}
    bench.submit(3, prompt=16, output=1, hashes=hashes(3, 16))
    bench.run()
    assert bench.cached == {*hashes(1, 8), *hashes(2, 16), *hashes(3, 16)}


def test_the_last_call_is_preempted_when_blocks_run_out_and_finishes_later() -> None:
    bench = Bench(shape(num_blocks=10), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, hashes=hashes(1, 28))
    bench.submit(2, prompt=8, output=20, hashes=hashes(2, 28))
    bench.run()
    assert [bench.ended[1].num_preemptions, bench.ended[2].num_preemptions] == [0, 1]
    assert list(bench.ended) == [1, 2]
    assert bench.tokens == {1: 20, 2: 20}
    assert bench.reports[-1][1].counters.num_preemptions == 1
    # Its own first blocks were still there when it came back, but they are no cache hit of its prompt.
    assert bench.ended[2].cached_tokens == 0


def test_the_less_urgent_call_is_preempted_even_if_it_came_first() -> None:
    bench = Bench(shape(num_blocks=10), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20, priority=1)
    bench.submit(2, prompt=8, output=20, priority=0)
    bench.run()
    assert [bench.ended[1].num_preemptions, bench.ended[2].num_preemptions] == [1, 0]


def test_a_call_that_never_fits_is_refused() -> None:
    bench = Bench(shape(num_blocks=10))
    bench.submit(1, prompt=30, output=11)
    assert bench.ended[1].end is End.TOO_LONG
    assert bench.core.next_tick() is None


def test_an_aborted_call_ends_at_once_whether_waiting_or_running() -> None:
    bench = Bench(shape(num_seqs=1), step_seconds=1.0)
    bench.submit(1, prompt=8, output=20)
    bench.submit(2, prompt=8, output=20)
    bench.run(until=3.5)
    for key in (1, 2, 2, 7):
        bench.abort(key)
    assert {key: receipt.end for key, receipt in bench.ended.items()} == {1: End.ABORTED, 2: End.ABORTED}
    assert bench.tokens == {1: 3, 2: 0}
    bench.run()
    assert bench.clock.now() == 4.0
    assert bench.reports[-1][1].counters.kv_usage == 0


def test_an_aborted_key_may_be_used_again_during_the_same_step() -> None:
    bench = Bench(shape(), step_seconds=1.0)
    bench.submit(1, prompt=40, output=20)
    bench.abort(1)
    bench.ended.clear()
    bench.submit(1, prompt=8, output=2)
    bench.run()
    assert bench.times(1)[-1] == 3.0


def test_a_late_timer_is_made_up_for_but_by_one_step_at_most() -> None:
    core = Core(shape(), constant(1.0))
    core.handle(Submitted(1, 4, 100), 0.0)
    core.tick(1.4)
    assert core.next_tick() == 2.0
    core.tick(9.0)
    assert core.next_tick() == 9.0


def test_time_runs_faster_with_speed() -> None:
    bench = Bench(Shape(100, BLOCK, 8, 16, speed=4.0), step_seconds=1.0)
    bench.submit(1, prompt=4, output=8)
    bench.run()
    assert bench.clock.now() == 2.0


def test_counters_say_how_fast_the_engine_is() -> None:
    bench = Bench(Shape(2000, 16, 64, 8192))
    for key in range(32):
        bench.submit(key, prompt=512, output=64)
    bench.run()
    counters = bench.reports[-1][1].counters
    assert counters.generated_tokens == 32 * 64
    assert counters.prompt_tokens == 32 * 512
    assert counters.step_seconds == pytest.approx(0.0145, rel=0.1)
    assert counters.prefill_tokens_per_second == pytest.approx(14_000, rel=0.15)
    assert counters.num_running == counters.num_waiting == 0


CALLS = st.tuples(
    st.integers(1, 60), st.integers(1, 30), st.integers(0, 3), st.integers(-1, 1), st.integers(1, 5), st.integers(0, 15)
)
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), CALLS),
    st.tuples(st.just("abort"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.floats(0, 9)),
)


@settings(max_examples=150)
@given(st.lists(ACTIONS, max_size=40), st.integers(25, 60), st.integers(1, 6), st.integers(6, 30))
def test_whatever_happens_every_call_ends_once(
    actions: list[tuple[str, tuple[int, ...] | int | float]], num_blocks: int, num_seqs: int, budget: int
) -> None:
    bench = Bench(Shape(num_blocks, BLOCK, num_seqs, budget), step_seconds=1.0)
    plans: dict[int, int] = {}
    for what, argument in actions:
        if isinstance(argument, tuple):
            prompt, output, name, priority, interval, brought = argument
            more = {"priority": priority, "interval": interval, "brought_tokens": brought * BLOCK}
            plans[len(plans)] = output
            names = hashes(name, prompt + output)
            bench.submit(len(plans) - 1, prompt, output, names, **more)
        elif what == "abort":
            bench.abort(int(argument))
        else:
            bench.run(bench.clock.now() + argument)
    bench.run()
    assert bench.ended.keys() == plans.keys()
    for key, receipt in bench.ended.items():
        assert bench.tokens[key] == plans[key] if receipt.end is End.DONE else bench.tokens[key] <= plans[key]
    if bench.reports:
        assert bench.reports[-1][1].counters.kv_usage == 0


def test_the_same_events_give_the_same_reports() -> None:
    def once() -> list[tuple[float, list[Progress]]]:
        bench = Bench(shape(num_blocks=30))
        for key in range(10):
            bench.submit(key, prompt=5 + 7 * key, output=30, hashes=hashes(key % 3, 35 + 7 * key))
        bench.run()
        return [(now, report.progress) for now, report in bench.reports]

    assert once() == once()
