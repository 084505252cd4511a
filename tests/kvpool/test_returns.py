"""What the pool believes of when threads come back, and of what it costs to have KV again."""

import random

import pytest

from services.common.laws import Hazard
from services.kvpool.cost import Costs
from services.kvpool.returns import Returns
from services.kvpool.segment import Program, Thread


class Life:
    """Threads that live through calls, told to `returns` as the core does."""

    def __init__(self, **limits: int) -> None:
        self.returns = Returns(**limits)

    def thread(self, name: str, agent: str = "a", tenant: str = "") -> Thread:
        return Thread(name, Program(name, tenant, agent), agent)

    def call(self, thread: Thread, begin: float, end: float) -> Hazard:
        self.returns.began(thread, thread.agent, begin)
        thread.began = begin
        thread.num_calls += 1
        thread.num_running += 1
        assert thread.turns is not None
        thread.num_running -= 1
        thread.idle_since = end
        self.returns.finished(thread, end)
        assert isinstance(thread.returns, Hazard)
        return thread.returns


def test_who_knows_nothing_believes_in_a_heavy_tail() -> None:
    life = Life()
    law = life.call(life.thread("p"), 0.0, 1.0)
    assert 0.3 < law.cdf(10.0) < 0.7
    assert law.cdf(10.0, 1000.0) < 0.1


def test_agents_are_told_apart_and_strangers_are_like_all() -> None:
    life, rng = Life(), random.Random(1)
    for number in range(200):
        for agent, gap in (("fast", 0.5), ("slow", 50.0)):
            thread = life.thread(f"{agent}{number}", agent)
            life.call(thread, 0.0, 1.0)
            life.call(thread, 1.0 + gap * rng.uniform(0.8, 1.2), 200.0)
            life.returns.ended(thread, 200.0)
    fast = life.call(life.thread("x", "fast"), 300.0, 301.0)
    slow = life.call(life.thread("y", "slow"), 300.0, 301.0)
    stranger = life.call(life.thread("z", "other"), 300.0, 301.0)
    assert fast.cdf(1.0) > stranger.cdf(1.0) > slow.cdf(1.0)
    assert slow.cdf(70.0, 30.0) > 0.8


def test_what_stays_away_untold_counts_as_staying_away() -> None:
    told, untold = Life(), Life()
    for life in (told, untold):
        for number in range(200):
            thread = life.thread(f"p{number}")
            life.call(thread, 10.0 * number, 10.0 * number + 1.0)
            if number % 2:
                life.call(thread, 10.0 * number + 2.0, 10.0 * number + 3.0)
            if life is told:
                life.returns.ended(thread, 10.0 * number + 3.0)
    now = 2000.0
    there = told.call(told.thread("x"), now, now + 1.0)
    away = untold.call(untold.thread("x"), now, now + 1.0)
    assert away.cdf(500.0, 20.0) < 0.5 * there.cdf(500.0, 20.0)


def test_a_thread_is_expected_to_go_on_at_its_pace() -> None:
    life = Life()
    for number in range(60):
        thread, gap = life.thread(f"p{number}"), 1.0 if number % 2 else 20.0
        now = 0.0
        for _ in range(10):
            life.call(thread, now, now + 0.5)
            now += 0.5 + gap
        life.returns.ended(thread, now)
    quick, slow = life.thread("quick"), life.thread("slow")
    life.call(quick, 1000.0, 1000.5)
    life.call(slow, 1000.0, 1000.5)
    quick_law, slow_law = life.call(quick, 1001.5, 1002.0), life.call(slow, 1020.5, 1021.0)
    assert quick_law.cdf(2.0) > 0.7
    assert slow_law.cdf(2.0) < 0.2


def test_memory_is_bounded_and_equal_lives_give_equal_laws() -> None:
    laws: list[float] = []
    for _ in range(2):
        life = Life(most_kinds=20, most_away=5)
        for number in range(300):
            life.call(life.thread(f"p{number}", f"agent{number}"), float(number), number + 0.5)
        laws.append(life.call(life.thread("last"), 300.0, 301.0).cdf(3.0, 1.0))
    assert laws[0] == laws[1]


def test_whole_programs_are_learned_too() -> None:
    returns, program = Returns(), Program("p", idle_since=5.0)
    before = returns.law(program).cdf(1.0)
    for _ in range(50):
        returns.law(program)
        returns.observe(program, 0.5)
    assert returns.law(program).cdf(1.0) > before


def test_programs_that_are_gone_are_not_waited_for_and_leave_what_threads_do_alone() -> None:
    laws: list[Hazard] = []
    threads: list[Hazard] = []
    for num_gone in (0, 300):
        life = Life()
        for number in range(num_gone):
            program = Program(f"gone{number}", num_calls=1, idle_since=float(number))
            life.returns.law(program)
            life.returns.gone(program, float(number))
        program = Program("p", num_calls=1, idle_since=1e6)
        laws.append(life.returns.law(program))
        threads.append(life.call(life.thread("x"), 1e6, 1e6 + 1.0))
    assert threads[0].cdf(10.0) == threads[1].cdf(10.0)
    assert laws[1].cdf(10.0) == pytest.approx(laws[0].cdf(10.0), rel=0.01)


def test_recomputing_costs_more_behind_a_long_prefix() -> None:
    costs = Costs()
    assert costs.recompute_seconds(0, 8192) == pytest.approx(0.65, rel=0.05)  # profiles.json: 12.6k tokens/s
    assert costs.recompute_seconds(0, 32768) == pytest.approx(3.7, rel=0.05)
    parts = costs.recompute_seconds(0, 1000) + costs.recompute_seconds(1000, 500)
    assert parts == pytest.approx(costs.recompute_seconds(0, 1500))
    assert costs.recompute_seconds(80_000, 1000) > 3 * costs.recompute_seconds(0, 1000)


def test_costs_follow_what_is_measured() -> None:
    costs = Costs()
    expected = 3 * costs.recompute_seconds(0, 4096)
    for _ in range(200):
        costs.learn_prefill(0, 4096, expected)
        costs.learn_reload("ssd", 10_000_000, 0.1)
    assert costs.recompute_seconds(0, 4096) == pytest.approx(expected, rel=1e-3)
    assert costs.reload_seconds(10_000_000, "ssd") == pytest.approx(0.1, rel=1e-3)
    assert costs.reload_seconds(1000, "dram") < costs.reload_seconds(1000, "peer")
