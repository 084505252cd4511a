"""The two clocks behave alike; the virtual one jumps."""

import asyncio

from services.common.clock import LoopClock, VirtualClock


def test_timers_run_in_order_of_time_then_of_setting():
    clock, ran = VirtualClock(), list[tuple[str, float]]()
    for name, when in [("b", 2.0), ("a", 1.0), ("c", 2.0)]:
        clock.call_at(when, lambda name=name: ran.append((name, clock.now())))
    clock.run()
    assert ran == [("a", 1.0), ("b", 2.0), ("c", 2.0)]


def test_a_cancelled_timer_does_not_run():
    clock, ran = VirtualClock(), list[str]()
    timer = clock.call_at(1.0, lambda: ran.append("cancelled"))
    clock.call_at(2.0, lambda: ran.append("kept"))
    timer.cancel()
    assert clock.next_due() == 2.0
    clock.run()
    timer.cancel()
    assert ran == ["kept"]
    assert not clock.step()


def test_running_until_a_time_ends_there():
    clock, ran = VirtualClock(10.0), list[float]()
    for when in (11.0, 12.0, 12.5):
        clock.call_at(when, lambda: ran.append(clock.now()))
    clock.run(until=12.0)
    assert (ran, clock.now(), clock.next_due()) == ([11.0, 12.0], 12.0, 12.5)
    clock.run(until=5.0)
    assert clock.now() == 12.0


def test_a_timer_in_the_past_runs_now_and_not_inside_the_call():
    clock, ran = VirtualClock(10.0), list[float]()
    clock.call_at(3.0, lambda: ran.append(clock.now()))
    assert ran == []
    clock.run()
    assert ran == [10.0]


def test_a_timer_may_set_the_next():
    clock, ran = VirtualClock(), list[float]()

    def beat() -> None:
        ran.append(clock.now())
        if len(ran) < 3:
            clock.call_at(clock.now() + 1.0, beat)

    clock.call_at(1.0, beat)
    clock.run()
    assert ran == [1.0, 2.0, 3.0]


async def test_the_loop_clock_runs_timers_in_order_and_forgets_cancelled_ones():
    clock, ran, done = LoopClock(), list[str](), asyncio.Event()
    clock.call_at(clock.now() + 0.01, done.set)
    clock.call_at(clock.now(), lambda: ran.append("now"))
    clock.call_at(clock.now(), lambda: ran.append("never")).cancel()
    assert ran == []
    async with asyncio.timeout(5):
        await done.wait()
    assert ran == ["now"]
