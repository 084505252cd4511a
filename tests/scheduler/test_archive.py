"""Programs follow their records into the store, whatever becomes of the store."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest

from services.common.clock import VirtualClock
from services.common.state import StoreUnavailable
from services.common.state.embedded import EmbeddedStore
from services.scheduler import archive
from services.scheduler.config import SchedulerSection
from services.scheduler.events import CallSubmitted, GatewayLost, ProgramChanged, ProgramEnded
from services.scheduler.term import Term
from tests.scheduler.fake_worker import SECONDS
from tests.scheduler.stage import MODEL, Stage


class FailingStore(EmbeddedStore):
    """Its first write fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(VirtualClock())
        self._error: Exception | None = error
        self.written = asyncio.Event()

    async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        await super().put_many(items, expire_seconds)
        self.written.set()


@asynccontextmanager
async def term_with_a_change() -> AsyncGenerator[Term]:
    term = Term(SchedulerSection())
    term.feed(CallSubmitted(1, "p", "c", MODEL, prompt_tokens=16, max_tokens=16))
    term.feed(GatewayLost(1))
    yield term
    term.end()


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a bug")])
async def test_what_could_not_be_written_is_written_later(error: Exception) -> None:
    store = FailingStore(error)
    async with term_with_a_change() as term:
        await archive.save(term, store, 60.0)
        assert list(term.unsaved) == ["p"]
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(archive.keep(term, store, 0.001, 60.0))
            await store.written.wait()
            keeping.cancel()
    assert [key async for key, _ in store.items("")] == ["program/p"]


async def test_a_save_that_is_cancelled_forgets_nothing() -> None:
    entered = asyncio.Event()

    class Hanging(EmbeddedStore):
        async def put_many(self, items: Mapping[str, bytes], expire_seconds: float | None = None) -> None:
            entered.set()
            await asyncio.Event().wait()

    async with term_with_a_change() as term, asyncio.timeout(SECONDS):
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(archive.save(term, Hanging(VirtualClock()), 60.0))
            await entered.wait()
            saving.cancel()
        assert list(term.unsaved) == ["p"]


@pytest.mark.parametrize("ending", ["rejected", "unlinked", "restarted too often"])
def test_however_a_program_ends_its_record_follows(ending: str) -> None:
    stage = Stage(max_attempts=1)
    if ending != "rejected":
        stage.join()
    stage.submit("c1", timeout=5.0)
    stage.feed(ProgramEnded("p"))
    before = len(stage.actions)
    if ending == "unlinked":
        stage.feed(GatewayLost(1))
    elif ending == "restarted too often":
        stage.lose("c1", attempt=1)
    stage.run(10.0)
    assert stage.core.programs.get("p") is None
    assert ProgramChanged("p") in stage.actions[before:]
