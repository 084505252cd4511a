"""What the workflow service foretells reaches the scheduler's core."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from services.common.laws import NEVER, Quantiles
from services.common.registry import Leadership, Registry
from services.scheduler import workflow_watcher
from services.scheduler.config import SchedulerSection
from services.scheduler.events import CallForeseen, Event, ForecasterLost
from services.scheduler.term import Term
from tests.scheduler.fake_worker import SECONDS
from tests.workflow.fake_service import fake_workflow, forecast, law


class Heard(Term):
    """A term that remembers what it is fed."""

    def __init__(self) -> None:
        super().__init__(SchedulerSection(), Leadership(1))
        self.events: list[Event] = []
        self._came = asyncio.Event()

    def feed(self, event: Event) -> None:
        super().feed(event)
        self.events.append(event)
        self._came.set()

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not there():
                self._came.clear()
                await self._came.wait()

    def of(self, program_id: str) -> list[CallForeseen]:
        return [event for event in self.events if isinstance(event, CallForeseen) and event.program_id == program_id]


@pytest.fixture
async def heard() -> AsyncGenerator[Heard]:
    term = Heard()
    yield term
    term.end()


@asynccontextmanager
async def watching(term: Term, members: Registry) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(workflow_watcher.watch(term, members))
        yield
        task.cancel()


async def test_forecasts_are_taken_as_they_stand(heard: Heard, members: Registry) -> None:
    said = forecast(
        "p",
        "c1",
        agent="coder",
        output=law(10, 20),
        returns=law(never=1.0),
        remaining=law(3, 5, never=0.25),
        revision=7,
    )
    async with watching(heard, members), fake_workflow(members, "w", said):
        await heard.until(lambda: bool(heard.of("p")))
    [event] = heard.of("p")
    assert (event.thread, event.agent, event.call_id, event.revision, event.valid_seconds) == (
        "t",
        "coder",
        "c1",
        7,
        100,
    )
    assert event.forecast.returns is NEVER
    assert event.forecast.service is None
    output, remaining = event.forecast.output, event.forecast.remaining
    assert isinstance(output, Quantiles)
    assert isinstance(remaining, Quantiles)
    assert (list(output.points), list(remaining.points), remaining.never) == ([10, 20], [3, 5], 0.25)


async def test_what_makes_no_sense_is_unknown(heard: Heard, members: Registry) -> None:
    nonsense = forecast("p", output=law(float("nan")), service=law(-1.0), remaining=law(1.0, never=2.0), returns=law())
    nonsense.importance = float("inf")
    async with watching(heard, members), fake_workflow(members, "w", nonsense):
        await heard.until(lambda: bool(heard.of("p")))
    [event] = heard.of("p")
    said = event.forecast
    assert (said.output, said.service, said.remaining, said.returns, said.importance) == (None, None, None, None, 0.0)


async def test_another_instance_takes_over_from_one_that_is_gone(heard: Heard, members: Registry) -> None:
    async with (
        fake_workflow(members, "b", forecast("q")),
        fake_workflow(members, "a", forecast("p")) as first,
        watching(heard, members),
    ):
        await heard.until(lambda: bool(heard.of("p")))
        first.says.put_nowait(forecast("p", revision=2))
        await heard.until(lambda: len(heard.of("p")) == 2)
        assert not heard.of("q")
        assert ForecasterLost() not in heard.events
        first.says.put_nowait(None)
        await heard.until(lambda: bool(heard.of("q")))
    assert heard.events.index(ForecasterLost()) < heard.events.index(heard.of("q")[0])


async def test_a_stream_that_ends_is_asked_for_again(heard: Heard, members: Registry) -> None:
    async with watching(heard, members), fake_workflow(members, "w", forecast("p")) as workflow:
        await heard.until(lambda: bool(heard.of("p")))
        workflow.in_force = [forecast("q")]
        workflow.says.put_nowait(None)
        await heard.until(lambda: bool(heard.of("q")))
        assert workflow.num_watched == 2
