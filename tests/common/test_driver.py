"""The driver: order of events and actions, and its one timer."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.common.clock import Timer, VirtualClock
from services.common.driver import Driver


@dataclass
class Alarm:
    """A core: `"ring@7"` rings at 7; anything else is echoed. Keeps what it was given and when."""

    due: list[float] = field(default_factory=list[float])
    seen: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def handle(self, event: str, now: float) -> list[str]:
        self.seen.append((event, now))
        if event.startswith("ring@"):
            self.due = sorted([*self.due, float(event.removeprefix("ring@"))])
            return []
        return [f"{event}.1", f"{event}.2"]

    def tick(self, now: float) -> list[str]:
        rung = [when for when in self.due if when <= now]
        self.due = self.due[len(rung) :]
        return [f"ring {when} at {now}" for when in rung]

    def next_tick(self) -> float | None:
        return min(self.due, default=None)


class Timers(VirtualClock):
    """A virtual clock that counts the timers set."""

    def __init__(self) -> None:
        super().__init__()
        self.set = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.set += 1
        return super().call_at(when, callback)


def test_actions_are_performed_in_order_at_the_time_of_the_event():
    clock, core, performed = VirtualClock(5.0), Alarm(), list[str]()
    driver = Driver(core, clock, performed.append)
    driver.feed("a")
    driver.feed("b")
    assert core.seen == [("a", 5.0), ("b", 5.0)]
    assert performed == ["a.1", "a.2", "b.1", "b.2"]


def test_an_event_fed_while_performing_waits_its_turn():
    performed: list[str] = []

    def perform(action: str) -> None:
        performed.append(action)
        if action == "a.1":
            driver.feed("b")
            assert performed == ["a.1"], "the core was entered again"

    driver = Driver(Alarm(), VirtualClock(), perform)
    driver.feed("a")
    assert performed == ["a.1", "a.2", "b.1", "b.2"]


def test_the_core_is_woken_when_it_is_due():
    clock, performed = VirtualClock(), list[str]()
    driver = Driver(Alarm(), clock, performed.append)
    driver.feed("ring@3")
    driver.feed("ring@1")
    driver.feed("ring@2")
    clock.run()
    assert performed == ["ring 1.0 at 1.0", "ring 2.0 at 2.0", "ring 3.0 at 3.0"]


def test_what_is_due_by_the_time_it_is_asked_for_comes_at_once():
    clock, performed = VirtualClock(10.0), list[str]()
    Driver(Alarm(), clock, performed.append).feed("ring@3")
    clock.run()
    assert performed == ["ring 3.0 at 10.0"]


def test_a_performed_action_of_a_tick_may_feed():
    clock, performed = VirtualClock(), list[str]()

    def perform(action: str) -> None:
        performed.append(action)
        if action.startswith("ring 1.0"):
            driver.feed("ring@2")

    driver = Driver(Alarm(), clock, perform)
    driver.feed("ring@1")
    clock.run()
    assert performed == ["ring 1.0 at 1.0", "ring 2.0 at 2.0"]


def test_a_timer_that_is_still_right_is_kept():
    clock = Timers()
    driver = Driver(Alarm(), clock, lambda _: None)
    driver.feed("ring@9")
    for _ in range(100):
        driver.feed("a")
    assert clock.set == 1


def test_a_closed_driver_does_not_wake_its_core():
    clock, performed = VirtualClock(), list[str]()
    driver = Driver(Alarm(), clock, performed.append)
    driver.feed("ring@1")
    driver.close()
    clock.run()
    assert performed == []


def test_an_action_that_fails_does_not_wedge_the_driver():
    performed: list[str] = []

    def perform(action: str) -> None:
        performed.append(action)
        if action == "a.1":
            raise ValueError("performing failed")

    clock = VirtualClock()
    driver = Driver(Alarm(), clock, perform)
    driver.feed("ring@1")
    with pytest.raises(ValueError, match="performing failed"):
        driver.feed("a")
    clock.run()
    driver.feed("b")
    assert performed == ["a.1", "ring 1.0 at 1.0", "b.1", "b.2"]
