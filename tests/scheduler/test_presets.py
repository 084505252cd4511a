"""Whole clusters run under every preset, and every policy of the literature has its name."""

import pytest

from services.scheduler import policy
from services.scheduler.events import Event
from tests.scheduler.stage import Stage

NAMED = [
    "fcfs",
    "sjf",
    "srpt",
    "mlfq",
    "plas",
    "atlas",
    "kairos",
    "hexgen",
    "edf",
    "tempo",
    "llmsched",
    "hermes",
    "ps_tcs",
    "justitia",
    "vtc",
    "saga",
    "thunderagent",
    "continuum",
    "concur",
    "maestro",
    "llmd_las",
]


def test_every_policy_has_its_name() -> None:
    assert set(NAMED) <= set(policy.names())


@pytest.mark.parametrize("name", policy.names())
def test_under_every_preset_more_programs_than_fit_are_served_to_their_ends(name: str) -> None:
    assert not crowd(name).rejected


@pytest.mark.parametrize(
    ("name", "params"), [("thunderagent", {}), ("continuum", {}), ("reservation", {}), ("concur", {"programs": 2.0})]
)
def test_each_admission_makes_programs_wait_between_calls_only(name: str, params: dict[str, float]) -> None:
    stage = crowd("fcfs", admission=name, admission_params=params)
    assert any(place.waited_seconds > 0 for place in stage.placed)
    assert stage.most_paused > 0
    assert len(stage.placed) == len({(place.program_id, place.call_id) for place in stage.placed}), "none twice"


class Crowded(Stage):
    """Looks how many calls are kept in the lobby."""

    most_paused = 0

    def feed(self, event: Event) -> None:
        super().feed(event)
        self.most_paused = max(self.most_paused, len(self.core.queue.lobby("m", 100)))


def crowd(preset: str, **settings: object) -> Crowded:
    """Two engines with room for four contexts each, sixteen programs of three calls that grow; all of it is served."""
    stage = Crowded(runs_seconds=2.0, **{"policy": preset, "ordering": "", **settings})
    for worker in ("a", "b"):
        stage.join(worker, seqs=4, blocks=80, prefill=4000.0, step=0.02)
    for turn in range(3):
        for number in range(16):
            blocks = [1000 * number + i for i in range(8 + 4 * turn)]
            stage.submit(f"c{number}-{turn}", f"p{number}", blocks=blocks, output=32, agent="coder")
        stage.run(3.0 + turn)
    stage.run(300.0)
    assert len({(place.program_id, place.call_id) for place in stage.placed}) == 48
    assert not stage.running
    assert not len(stage.core.queue)
    return stage
