"""What the workflow service foretells of threads' returns goes before what a pool learned of them, while it holds."""

import asyncio
import itertools

import pytest

from services.common import registry
from services.common.config import RegistrySection
from services.common.laws import Law, Quantiles
from services.common.registry.embedded import serve_embedded
from services.kvpool import retention, workflow_watcher
from services.kvpool.core import Core
from services.kvpool.cost import Costs
from services.kvpool.events import Event, FinishCall, ReleaseProgram, ThreadForeseen, User
from services.kvpool.pool import Pool
from services.kvpool.returns import Returns
from services.kvpool.segment import Thread
from services.kvpool.speeds import Speeds
from tests.kvpool.pools import SECONDS
from tests.kvpool.stage import Stage
from tests.workflow.fake_service import fake_workflow, forecast, law

SOON = Quantiles([8.0, 10.0, 12.0])
LATE = Quantiles([800.0, 1000.0, 1200.0])
_names = itertools.count(1)


def foresee(stage: Stage, returns: Law, program: str = "p", *, valid: float = 60.0, running: bool = False) -> None:
    stage.feed(ThreadForeseen(program, "t", returns, valid, running))


def thread(stage: Stage, program: str = "p") -> Thread:
    [found] = stage.core.programs.named(program, "t")
    return found.thread


def test_an_idle_thread_goes_by_what_is_foretold_counted_from_now() -> None:
    stage = Stage()
    stage.call("abc", thread="t")
    assert thread(stage).returns is None
    stage.wait(30.0)
    foresee(stage, SOON)
    returns = thread(stage).returns
    assert returns is not None
    elapsed = stage.now - thread(stage).idle_since
    assert [returns.cdf(tau, elapsed) for tau in (5.0, 10.0)] == pytest.approx([SOON.cdf(5.0), SOON.cdf(10.0)])


def test_what_is_said_of_a_call_counts_from_its_end() -> None:
    stage = Stage()
    foresee(stage, SOON, running=True)  # before the call comes to the pool
    stage.acquire("l", "abc", thread="t")
    stage.wait(20.0)
    assert thread(stage).returns is None
    stage.feed(FinishCall("one", User("p", thread="t")))
    assert thread(stage).returns is SOON


def test_it_holds_until_it_expires() -> None:
    stage = Stage()
    stage.call("abc", thread="t")
    foresee(stage, SOON, valid=5.0)
    stage.wait(4.0)
    assert thread(stage).returns is not None
    stage.wait(2.0)
    assert thread(stage).returns is None


def test_it_holds_until_it_is_replaced_or_the_next_call_comes() -> None:
    stage = Stage()
    stage.call("abc", thread="t")
    foresee(stage, SOON)
    foresee(stage, LATE)
    returns = thread(stage).returns
    assert returns is not None
    assert returns.cdf(100.0) == 0.0
    stage.call("abcd", thread="t")
    assert thread(stage).returns is None


def test_threads_are_told_apart_and_unnamed_ones_go_by_their_agent() -> None:
    stage = Stage()
    stage.call("abc", thread="t")
    stage.call("xyz", thread="u")
    foresee(stage, SOON)
    [other] = stage.core.programs.named("p", "u")
    assert other.thread.returns is None
    assert thread(stage).returns is SOON
    assert User("q", agent="t").name == "t"


def test_no_more_is_remembered_than_may_be() -> None:
    stage = Stage(max_programs=3)
    for number in range(5):
        foresee(stage, SOON, f"p{number}", running=True)
    assert len(stage.core.foresight) == 3
    stage.wait(60.0)
    assert len(stage.core.foresight) == 0


def test_a_program_that_ends_leaves_nothing_behind() -> None:
    stage = Stage()
    stage.call("abc", thread="t")
    foresee(stage, SOON)
    stage.feed(ReleaseProgram("p"))
    stage.wait(60.0)
    assert len(stage.core.foresight) == 0


@pytest.mark.parametrize(("late", "soon"), [("p", "q"), ("q", "p")])
def test_what_is_foretold_late_goes_first(late: str, soon: str) -> None:
    stage = Stage(6, policy=retention.load("density", newcomers=0.0))
    for program, text in (("p", "abc"), ("q", "xyz")):
        stage.call(text, program, thread="t")
    foresee(stage, SOON, soon)
    foresee(stage, LATE, late)
    stage.call("mn", "r", thread="t")
    assert stage.held("abc" if soon == "p" else "xyz")[0] == 3
    assert stage.held("abc" if late == "p" else "xyz")[0] == 1


class Heard(Pool):
    """A pool that remembers what it is fed."""

    def __init__(self) -> None:
        costs = Costs()
        super().__init__("p", "a", Core(10**6, 0, retention.load("lru"), costs, Returns()), Speeds(costs))
        self.came: asyncio.Queue[Event] = asyncio.Queue()

    def feed(self, event: Event) -> None:
        super().feed(event)
        self.came.put_nowait(event)


async def test_a_pool_hears_what_is_foretold() -> None:
    pool = Heard()
    async with (
        serve_embedded() as endpoint,
        registry.connect(RegistrySection(endpoints=(endpoint,)), f"forecasts-{next(_names)}") as members,
        asyncio.TaskGroup() as tasks,
        asyncio.timeout(SECONDS),
        fake_workflow(members, "w", forecast("p", output=law(5)), forecast("q", "c1", returns=law(2, 3))) as workflow,
    ):
        watching = tasks.create_task(workflow_watcher.watch(pool, members))
        first = await pool.came.get()
        workflow.says.put_nowait(forecast("r", thread="", agent="coder", returns=law(4, never=0.5)))
        second = await pool.came.get()
        watching.cancel()
    pool.close()
    assert isinstance(first, ThreadForeseen)
    assert isinstance(second, ThreadForeseen)
    assert (first.program_id, first.thread, first.valid_seconds, first.running) == ("q", "t", 100.0, True)
    assert (second.program_id, second.thread, second.running) == ("r", "coder", False)
    assert isinstance(second.returns, Quantiles)
    assert (list(second.returns.points), second.returns.never) == ([4.0], 0.5)
