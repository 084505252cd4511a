"""A workflow service in the simulated cluster: what it is told, and who hears what it foresees."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

from services.scheduler.events import CallForeseen
from services.worker.simulated.cost import Profile, load_profile
from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver
from sim import workload
from sim.contender import contender
from sim.experiment import Setup, simulate
from sim.history import events_of
from sim.outcome import Outcome
from sim.trace import Program
from sim.wire import Wire
from sim.workflow import Forecaster
from sim.world import World

PROFILE = "llama3-8b@a100-tp1"


def programs(seed: int, rate: float = 2.0) -> list[Program]:
    return workload.arrivals(workload.generated("react", 12, seed), rate, seed)


def setup(**differs: object) -> Setup:
    return Setup(PROFILE, 1, kv_tokens=200_000, **differs)  # pyright: ignore[reportArgumentType] (fields of Setup)


def run(**differs: object) -> Outcome:
    return simulate(programs(1), setup(**differs))


def test_runs_with_forecasts_repeat_and_what_was_seen_before_counts() -> None:
    cold, warm = run(workflow="cold"), run(workflow="warm", history=programs(2))
    assert cold.digest == run(workflow="cold").digest
    assert warm.digest == run(workflow="warm", history=programs(2)).digest
    assert len({cold.digest, warm.digest, run().digest}) == 3
    assert all(program.completed for outcome in (cold, warm) for program in outcome.programs)


def test_a_history_is_for_a_service_that_is_there() -> None:
    assert run(history=programs(2)).digest == run().digest


class Overheard(Forecaster):
    """Keeps what it is told and what it says."""

    heard: ClassVar[list[Event]] = []
    said: ClassVar[list[CallForeseen]] = []

    def __init__(
        self, wire: Wire, tell: Callable[[CallForeseen], None], profile: Profile, history: Sequence[Program]
    ) -> None:
        def saying(event: CallForeseen) -> None:
            self.said.append(event)
            tell(event)

        super().__init__(wire, saying, profile, history)

    def log(self, event: Event) -> None:
        self.heard.append(event)
        super().log(event)


def test_gateways_log_what_a_history_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls with the same messages; only times, and what was cached, are those of the run."""
    monkeypatch.setattr("sim.cluster.Forecaster", Overheard)
    some = programs(1)
    world = World(setup(workflow="cold"), some)
    world.run()
    world.check()
    heard, said = Overheard.heard, Overheard.said
    profile = load_profile(PROFILE)
    wanted = [event for program in some for _, event in events_of(program, profile, 0.0, threads=True)]
    began = {(event.program_id, event.call_id): event for event in heard if isinstance(event, CallBegan)}
    assert began == {(each.program_id, each.call_id): each for each in wanted if isinstance(each, CallBegan)}
    ended = {(event.program_id, event.call_id): event for event in heard if isinstance(event, CallEnded)}
    for event in wanted:
        if isinstance(event, CallEnded):
            found = ended[event.program_id, event.call_id]
            assert (found.completed, found.output, found.tools) == (True, event.output, event.tools)
            assert (found.prompt_tokens, found.output_tokens) == (event.prompt_tokens, event.output_tokens)
            assert found.engine_seconds > 0.2 * event.engine_seconds  # there all that its thread sent before was cached
    assert {event.program_id for event in heard if isinstance(event, ProgramOver)} == {each.program_id for each in some}
    assert {(each.program_id, each.call_id) for each in said if each.call_id} == set(began)


def test_it_is_asked_for_on_the_command_line() -> None:
    assert contender("legato+forecasts", setup()).workflow == "cold"
    assert contender("legato", setup()).workflow == ""
