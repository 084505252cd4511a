"""Limits on cases small enough to be done by hand, and that nothing the simulated engine does is below them."""

import random
from functools import cache
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.laws import Exponential, Point
from services.worker.simulated.cost import Profile, load_profile
from sim.limits import CallDemand, Capacity, Demand, Paths, best_prices, demands, makespan, mean_jct, saturation, ttl
from sim.limits.prices import Prices
from sim.trace import Call, Program, Segment

# A step lasts a second, whatever is in it, and nothing else costs anything.
FLAT = Profile(
    layers=1,
    hidden=1,
    kv_tokens=1000,
    kv_bytes_per_token=1,
    t0_ms=0.0,
    seq_ms=0.0,
    head_ms=0.0,
    ctx_ms_per_token=0.0,
    attn_flops_per_pair=0.0,
    attn_flops_per_second=1.0,
    allreduce=None,
    pcie_bytes_per_second=1.0,
    linear_ms=((1, 1000.0), (1000, 1000.0)),
)


def _flat(num_engines: int = 1, kv_tokens: int = 1000, max_num_seqs: int = 10, budget: int = 100) -> Capacity:
    return Capacity(FLAT, num_engines, kv_tokens, max_num_seqs, budget)


def _program(name: str, calls: list[Call], segments: dict[str, int]) -> Program:
    return Program(name, "w", tuple(Segment(hash, tokens) for hash, tokens in segments.items()), tuple(calls))


def _chain(name: str, waits: list[float], output: int = 11, own: int = 100, shared: int = 0) -> Program:
    """Calls one after the other; each prompt is the one before and 20 tokens more."""
    segments = {"shared": shared, f"{name}/0": own} | {f"{name}/{at}": 20 for at in range(1, len(waits))}
    calls = [
        Call(at, "a", 0, (at - 1,) if at else (), tuple(range(at + 2)), output, wait_s=wait)
        for at, wait in enumerate(waits)
    ]
    return _program(name, calls, segments)


def test_a_prefix_counts_once_and_to_who_brings_it() -> None:
    one, two = demands([_chain("p", [0, 0], shared=50), _chain("q", [0, 0], shared=50)])
    assert [call.prefill_tokens for call in one.calls] == [100, 20]
    assert one.calls[0].prefill_pairs == 100 * (50 + 50)
    assert (one.shared_tokens, two.shared_tokens) == (25, 25)
    # Ten steps with the prompt, of which the shared part counts half, and 1 + .. + 10 tokens that came out.
    assert one.calls[0].decode_context == 10 * 150 + 55
    assert one.calls[0].decode_room == 10 * (25 + 100) + 55


def test_what_several_calls_may_bring_is_a_piece_of_its_own() -> None:
    fan = [Call(at, "a", at, (0,) if at else (), (0,) if at == 0 else (0, 1), 2) for at in range(3)]
    [demand] = demands([_program("p", fan, {"s": 10, "t": 30})])
    assert [call.prefill_tokens for call in demand.calls] == [10, 1, 1]
    [piece] = demand.pieces
    assert (piece.calls, piece.tokens, piece.pairs) == ((1, 2), 30, 30 * (10 + 15))
    # The three can hold the head together, two of them the rest.
    assert demand.calls[1].decode_room == 10 / 3 + 30 / 2 + 1


def test_what_came_out_of_a_decode_is_not_prefilled() -> None:
    calls = [Call(0, "a", 0, (), (0,), 20, output=(1,)), Call(1, "a", 0, (0,), (0, 1, 2), 2)]
    [demand] = demands([_program("p", calls, {"s": 10, "out": 24, "t": 5})])
    assert [call.prefill_tokens for call in demand.calls] == [10, 5]


def test_a_critical_path_runs_through_waits_and_the_longest_branch() -> None:
    calls = [
        Call(0, "a", 0, (), (0,), 3),
        Call(1, "a", 1, (0,), (0,), 2, wait_s=5.0),
        Call(2, "a", 2, (0,), (0,), 9),
        Call(3, "a", 0, (1, 2), (0,), 1, wait_s=0.5),
    ]
    program = _program("p", calls, {"s": 10})
    [demand] = demands([program])
    path = Paths(program, demand, _flat())
    # A call takes as many steps as it gives tokens: the first comes with the prefill.
    assert [path.seconds(call) for call in range(4)] == [3, 2, 9, 1]
    assert path.heads == [0, 8, 3, 12.5]
    assert path.tails == [10.5, 1.5, 1.5, 0]
    assert path.critical_path == 13.5


def test_a_call_is_not_issued_before_its_gap_has_passed() -> None:
    calls = [Call(0, "a", 0, (), (0,), 3), Call(1, "a", 0, (0,), (0,), 1, gap_s=40.0)]
    program = _program("p", calls, {"s": 10})
    assert Paths(program, demands([program])[0], _flat()).critical_path == 41


def test_prices_are_those_of_the_fullest_steps() -> None:
    decode_only, prefill_only = Demand([]), Demand([], shared_tokens=1000.0)
    [decode_only] = demands([_chain("p", [0.0], output=1001, own=1)])
    capacity = _flat(kv_tokens=10**9)
    assert best_prices([decode_only], capacity).decode == pytest.approx(1 / 10)  # as many as a batch has seats
    assert best_prices([prefill_only], capacity).prefill == pytest.approx(1 / 100)  # the budget of a step
    # Contexts of 200 tokens: five fill the cache.
    long = Demand([CallDemand(1.0, 0.0, 100, 100 * 200.0, 100 * 200.0)])
    assert best_prices([long], _flat(kv_tokens=1000)).program_seconds(long) == pytest.approx(100 / 5, rel=0.01)
    # What is prefilled beside decodes takes no step of its own.
    [both] = demands([_chain("p", [0.0], output=3, own=198)])
    assert best_prices([both], capacity).program_seconds(both) == pytest.approx(200 / 100)


@cache
def _best(prompt: int, output: int) -> Prices:
    capacity = Capacity(load_profile("llama3-8b@a100-tp1"), 1, 50_000, 10, 2048)
    return best_prices(demands([_chain("p", [0.0], output=output, own=prompt)]), capacity)


@given(st.integers(0, 10), st.integers(0, 2048), st.floats(0, 1), st.sampled_from([(100, 2), (1, 500), (30_000, 200)]))
def test_no_step_is_worth_more_than_it_lasts(
    num_decoding: int, prefill: int, filled: float, lengths: tuple[int, int]
) -> None:
    prices = _best(*lengths)
    prefill = min(prefill, 2048 - num_decoding)
    if num_decoding + prefill:
        room = filled * 50_000 if num_decoding else 0.0
        worth = prices.decode * num_decoding + prices.prefill * prefill + prices.room * room
        assert worth <= prices.capacity.step_seconds(num_decoding + prefill) * (1 + 1e-6)


def _limits(programs: list[Program], arrivals: list[float], capacity: Capacity):
    asked = demands(programs)
    paths = [Paths(program, demand, capacity) for program, demand in zip(programs, asked, strict=True)]
    prices = best_prices(asked, capacity)
    return mean_jct(arrivals, paths, asked, prices), makespan(arrivals, paths, asked, prices)


def test_one_program_alone_takes_its_critical_path() -> None:
    bound, end = _limits([_chain("p", [0.0, 7.0])], [3.0], _flat())
    assert bound.seconds == bound.critical == 11 + 7 + 11
    assert end == 3 + 29


def test_one_seat_makes_programs_wait_for_one_another() -> None:
    # Three programs of one call at once, 2, 4 and 6 steps, one at a time: 2, 6, 12 s, less what the first tokens'
    # prefill shares a step with (it is worth a hundredth of it).
    programs = [_chain(str(steps), [0.0], output=steps + 1, own=1) for steps in (6, 2, 4)]
    bound, end = _limits(programs, [0.0, 0.0, 0.0], _flat(max_num_seqs=1))
    assert bound.srpt == pytest.approx((2 + 6 + 12) / 3, rel=0.02)
    assert bound.busy == pytest.approx((2 + 6 + 12) / 3, rel=0.2)
    assert end == pytest.approx(12, rel=0.02)


def test_waits_count_in_the_limit_of_a_busy_cluster() -> None:
    # Two seats' worth of work, and each program still waits 50 s between its calls: more than SRPT or paths alone see.
    programs = [_chain(str(number), [0.0, 50.0], output=11, own=1) for number in range(20)]
    bound, _ = _limits(programs, [0.0] * 20, _flat(max_num_seqs=1))
    assert bound.busy > bound.srpt + 10
    assert bound.busy > bound.critical + 50


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(2, 8)), min_size=1, max_size=4))
def test_no_order_of_whole_programs_beats_the_limits(jobs: list[tuple[int, int]]) -> None:
    # One seat: programs run one after another; the best order of them is above every limit.
    programs = [_chain(str(number), [0.0], output=steps, own=1) for number, (_, steps) in enumerate(jobs)]
    arrivals = [float(at) for at, _ in jobs]
    bound, end = _limits(programs, arrivals, _flat(max_num_seqs=1, budget=1))
    sums: list[float] = []
    ends: list[float] = []
    for order in permutations(range(len(jobs))):
        now = total = 0.0
        for number in order:
            now = max(now, arrivals[number]) + jobs[number][1]
            total += now - arrivals[number]
        sums.append(total / len(jobs))
        ends.append(now)
    assert bound.seconds <= min(sums) + 1e-6
    assert end <= min(ends) + 1e-6


def test_saturation_is_compute_when_nothing_waits() -> None:
    programs = [_chain(str(number), [0.0], output=101, own=1) for number in range(8)]
    asked = demands(programs)
    capacity = _flat(num_engines=3, kv_tokens=10**9)
    paths = [Paths(program, demand, capacity) for program, demand in zip(programs, asked, strict=True)]
    found = saturation(asked, paths, best_prices(asked, capacity))
    assert found.bound_by == "compute"
    assert found.programs_per_second == pytest.approx(3 / 10, rel=0.02)  # ten seats, a hundred steps
    assert found.kept_share == 1.0


def test_saturation_weighs_keeping_against_prefill() -> None:
    def of(wait: float):
        programs = [_chain(str(number), [0.0, wait], output=2, own=400) for number in range(4)]
        asked = demands(programs)
        capacity = _flat(kv_tokens=500)
        prices = Prices(0.01, 0.1, 0.0, capacity)
        paths = [Paths(program, demand, capacity) for program, demand in zip(programs, asked, strict=True)]
        return saturation(asked, paths, prices)

    short, long = of(0.0), of(1000.0)
    assert short.kept_share == 1.0
    assert short.bound_by == "room"
    # 400 tokens for a thousand seconds fill a cache for 800 s; to prefill them again takes 4.
    assert long.kept_share < 0.01
    assert long.bound_by == "room" or long.compute_seconds == pytest.approx(long.room_seconds)
    assert 1 / long.programs_per_second == pytest.approx(4.0 + 0.2 + 0.2 + 4.0, rel=0.1)


def test_ski_rental_pays_at_most_twice_the_least() -> None:
    rng = random.Random(1)
    for _ in range(200):
        gain, rent, use = rng.uniform(0.1, 10), rng.uniform(0.1, 2), rng.expovariate(0.3)
        paid = ttl.cost(gain, rent, ttl.ski_rental(gain, rent), use)
        assert paid <= 2 * ttl.least_cost(gain, rent, use) + 1e-12


def test_the_best_time_to_keep_follows_from_the_law() -> None:
    assert ttl.best_ttl(Point(3.0), gain=10.0, rent=1.0) == 3.0
    assert ttl.best_ttl(Point(30.0), gain=10.0, rent=1.0) == 0.0
    # Memoryless: all or nothing, at rent / gain a second.
    assert ttl.best_ttl(Exponential(0.2), gain=10.0, rent=1.0) > 10
    assert ttl.best_ttl(Exponential(0.05), gain=10.0, rent=1.0) == 0.0
    assert ttl.regret([(10.0, 1.0, 3.0, 3.0), (10.0, 1.0, 3.0, 5.0)]) == pytest.approx(0.0 + 8.0)
