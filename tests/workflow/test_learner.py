"""What the learner makes of the call log: what is on the board, from when on, and what cannot stop it."""

import json
import zlib
from dataclasses import dataclass
from math import inf, isfinite, nan

import pytest

from legato.v1 import workflow_pb2
from services.common import state
from services.common.config import StateSection
from services.common.foretold import Foretold
from services.common.laws import Key, Quantiles
from services.workflow import snapshot
from services.workflow.board import Board
from services.workflow.core import Core
from services.workflow.events import Event
from services.workflow.learner import Learner
from services.workflow.recent import Recent
from services.workflow.translation import event_of
from tests.workflow.log_entries import CALL_SECONDS, GAP_SECONDS, began, ended, life, over

NOW = 1_700_000_000.0


@dataclass
class Stage:
    """A learner, its board, and what time it is."""

    recent: Recent
    now: float = NOW

    def __post_init__(self) -> None:
        self.board = Board(lambda: self.now)
        self.learner = Learner(Core, self.board, self.recent, lambda: self.now)

    def foretold(self) -> dict[tuple[str, str], Foretold]:
        return {(said.foretold.program_id, said.foretold.call_id): said.foretold for said in self.board.in_force()}


@pytest.fixture
def stage() -> Stage:
    return Stage(Recent())


def test_calls_that_an_agent_makes_at_once_are_each_foretold_until_they_end(stage: Stage) -> None:
    stage.learner.take(life("old", 1, NOW - 900.0))
    with stage.board.watching() as watcher:
        watcher.batch()
        stage.learner.take([began("p", call, NOW) for call in range(5)], live=True)
        heard = watcher.batch().forecasts
        assert sorted(forecast.call_id for forecast in heard) == [f"c{call}" for call in range(5)]
        assert [forecast.revision for forecast in heard] == sorted(forecast.revision for forecast in heard)
        stage.learner.take([ended("p", call, NOW) for call in (0, 3)], live=True)
        assert set(stage.foretold()) == {("p", f"c{call}") for call in (1, 2, 4)}
        stage.learner.take([ended("p", call, NOW) for call in (1, 2, 4)], live=True)
        assert [forecast.call_id for forecast in watcher.batch().forecasts] == [""]
    assert set(stage.foretold()) == {("p", "")}
    stage.learner.take([began("p", 5, NOW)], live=True)
    assert set(stage.foretold()) == {("p", "c5")}
    stage.learner.take([over("p", NOW)], live=True)
    assert not stage.foretold()


@pytest.mark.parametrize("behind", [0.0, 30.0, 700.0])
def test_by_a_gateway_whose_clock_is_behind_nobody_has_been_idle(stage: Stage, behind: float) -> None:
    for number in range(30):
        stage.learner.take(life(f"old{number}", 4, NOW - 3600.0 + number))
    at = NOW - behind
    stage.learner.take([began("p", 0, at - CALL_SECONDS), ended("p", 0, at)], live=True)
    with stage.board.watching() as watcher:
        [forecast] = watcher.batch().forecasts
    assert forecast.valid_seconds >= 600.0
    assert forecast.returns.points[len(forecast.returns.points) // 2] == pytest.approx(GAP_SECONDS, rel=0.3)


def test_of_an_older_log_what_is_foretold_is_as_old_as_what_happened(stage: Stage) -> None:
    stage.learner.take([began("stale", 0, NOW - 3000.0), began("p", 0, NOW - 100.0)])
    with stage.board.watching() as watcher:
        [forecast] = watcher.batch().forecasts
    assert (forecast.program_id, forecast.valid_seconds) == ("p", 500.0)


@pytest.mark.parametrize("seconds", [inf, -inf, nan, -1.0, 1e300])
def test_a_time_that_makes_no_sense_spoils_no_speed(stage: Stage, seconds: float) -> None:
    for number in range(30):
        stage.learner.take(life(f"old{number}", 2, NOW - 3600.0 + number))
    last = ended("bad", 0, NOW - 40.0)
    last.ended.engine_seconds = seconds
    tool = workflow_pb2.LogEntry(at=NOW - 40.0, tool=workflow_pb2.ToolRan(program_id="bad", seconds=seconds))
    stage.learner.take([began("bad", 0, NOW - 50.0), last, tool, began("bad", 1, NOW - 30.0)])
    stage.learner.take([*life("after", 2, NOW - 100.0), began("p", 0, NOW)])
    for told in (stage.foretold()["bad", "c1"], stage.foretold()["p", "c0"]):
        service = told.forecast.service
        assert isinstance(service, Quantiles)
        assert all(map(isfinite, service.points))
        assert service.quantile(0.5) == pytest.approx(CALL_SECONDS, rel=0.3)
    assert event_of(tool) is None


@pytest.mark.parametrize("at", [inf, -inf, nan, -1.0])
def test_what_happened_at_no_time_is_passed_over(stage: Stage, at: float) -> None:
    stage.learner.take([began("p", 0, at), began("q", 0, NOW)])
    assert set(stage.foretold()) == {("q", "c0")}


@pytest.mark.parametrize("position", ["nonsense", None, 7, "1-x"])
async def test_a_snapshot_without_a_position_leaves_the_learner_as_it_was(stage: Stage, position: object) -> None:
    values: dict[str, object] = {"version": 2, "position": position, "core": Core().snapshot(), "said": []}
    before = stage.learner.core
    async with state.connect(StateSection(), "learner-test") as store:
        await store.put("workflow/snapshot", zlib.compress(json.dumps(values).encode()))
        await snapshot.restore(stage.learner, store)
        assert stage.learner.core is before
        assert stage.learner.position == ""
        values["position"] = "1-2"
        await store.put("workflow/snapshot", zlib.compress(json.dumps(values).encode()))
        await snapshot.restore(stage.learner, store)
    assert stage.learner.position == "1-2"


def test_in_the_middle_of_a_batch_it_is_not_whole(stage: Stage) -> None:
    assert stage.learner.whole
    stage.learner.at("1-1")
    stage.learner.take([began("p", 0, NOW)])
    assert not stage.learner.whole
    stage.learner.position = "1-1"
    assert stage.learner.whole


class Forgetful(Recent):
    """Stumbles over one program."""

    def add(self, event: Event, entry: workflow_pb2.LogEntry, kind: Key | None) -> None:
        if event.program_id == "stone":
            raise RuntimeError("a bug")
        super().add(event, entry, kind)


def test_a_bug_in_what_keeps_programs_to_be_explained_stops_nothing() -> None:
    stage = Stage(Forgetful())
    stage.learner.take([began("stone", 0, NOW), began("p", 0, NOW)])
    assert set(stage.foretold()) == {("stone", "c0"), ("p", "c0")}
    assert stage.recent.of("p") is not None
