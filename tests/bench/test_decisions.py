"""What a decision costs, counted: the work of the scheduler's core does not grow with the cluster."""

import pytest

from bench.decisions.__main__ import misses
from bench.decisions.crowd import PROGRAMS_PER_WORKER, Crowd
from bench.decisions.measure import measure
from services.scheduler import fleet
from services.scheduler.outlook import Outlook


def work(num_workers: int) -> tuple[float, float]:
    """Calls judged and workers looked at, per decision, under load."""
    crowd = Crowd(num_workers, policy="legato")
    crowd.watch.core.check = lambda: None
    crowd.run(PROGRAMS_PER_WORKER * num_workers)
    dispatch = crowd.watch.core.dispatch
    judged, looks = dispatch.num_judged, dispatch.num_looks
    crowd.run(5 * num_workers)
    decisions = crowd.watch.num_decisions
    assert len(crowd.watch.core.programs) == PROGRAMS_PER_WORKER * num_workers
    return (dispatch.num_judged - judged) / decisions, (dispatch.num_looks - looks) / decisions


def test_the_work_of_a_decision_does_not_grow_with_programs_and_workers() -> None:
    (judged, looks), (judged_large, looks_large) = work(20), work(100)
    assert judged_large <= 1.2 * judged + 0.2
    assert looks_large <= 1.2 * looks + 0.5
    assert looks_large < 20


def test_outlooks_are_made_for_workers_and_not_for_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    num_made = 0

    class Counted(Outlook):
        __slots__ = ()

        def __init__(self, *arguments: object) -> None:
            nonlocal num_made
            num_made += 1
            super().__init__(*arguments)  # pyright: ignore[reportArgumentType] (as they came)

    monkeypatch.setattr(fleet, "Outlook", Counted)
    Crowd(20, policy="legato").run(100)
    assert num_made == 20


def test_the_result_says_where_it_misses_its_goal() -> None:
    row = {"workers": 10, "decisions_per_second": 9000.0, "turn_p99_seconds": 0.001, "looks_per_decision": 9.0}
    rows = [row | {"workers": size, "seconds_per_decision": 1e-4} for size in (10, 30, 100, 300, 1000)]
    assert misses(rows) == []
    rows[-1] = rows[-1] | {"decisions_per_second": 10.0, "turn_p99_seconds": 1.0, "looks_per_decision": 90.0}
    assert len(misses(rows)) == 3


def test_a_size_is_measured() -> None:
    row = measure(2, "fcfs", 40)
    assert row["decisions"] >= 40
    assert row["decisions_per_second"] > 0
