"""Programs follow their records into the store, whatever becomes of the store and whoever else writes there."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager

import pytest

from services.common.clock import VirtualClock
from services.common.registry import Leadership
from services.common.state import Store, StoreUnavailable
from services.common.state.embedded import EmbeddedStore
from services.scheduler.archive import Archive
from services.scheduler.config import SchedulerSection
from services.scheduler.events import CallSubmitted, GatewayLost, ProgramChanged, ProgramEnded, ProgramRestored
from services.scheduler.term import Term
from tests.scheduler.fake_worker import SECONDS
from tests.scheduler.stage import MODEL, Stage


class FailingStore(EmbeddedStore):
    """Its first write of a program fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(VirtualClock())
        self._error: Exception | None = error
        self.written = asyncio.Event()

    async def write(
        self,
        fence: str,
        token: int,
        put: Mapping[str, bytes],
        delete: Collection[str] = (),
        expire_seconds: float | None = None,
    ) -> int:
        if put and (error := self._error) is not None:
            self._error = None
            raise error
        met = await super().write(fence, token, put, delete, expire_seconds)
        if put:
            self.written.set()
        return met


class AwayStore(EmbeddedStore):
    """Nothing can be had of it for now."""

    def __init__(self) -> None:
        super().__init__(VirtualClock())
        self.away = False
        self.was_read = asyncio.Event()
        """Set when all was read."""

    async def write(
        self,
        fence: str,
        token: int,
        put: Mapping[str, bytes],
        delete: Collection[str] = (),
        expire_seconds: float | None = None,
    ) -> int:
        if self.away:
            raise StoreUnavailable("away")
        return await super().write(fence, token, put, delete, expire_seconds)

    async def items(self, prefix: str) -> AsyncGenerator[tuple[str, bytes]]:
        async for item in super().items(prefix):
            yield item
        self.was_read.set()


@asynccontextmanager
async def new_term(number: int = 1) -> AsyncGenerator[Term]:
    term = Term(SchedulerSection(), Leadership(number))
    yield term
    term.end()


@asynccontextmanager
async def term_with_a_change(number: int = 1) -> AsyncGenerator[Term]:
    async with new_term(number) as term:
        change(term)
        yield term


def change(term: Term, program_id: str = "p") -> None:
    """A program that the term knows, whose record is to be written."""
    term.feed(CallSubmitted(1, program_id, "c", MODEL, prompt_tokens=16, max_tokens=16))
    term.feed(GatewayLost(1))


def archive(term: Term, store: Store, save_seconds: float = 60.0) -> Archive:
    return Archive(term, store, save_seconds, expire_seconds=60.0)


async def kept(store: Store) -> list[str]:
    return sorted([key async for key, _ in store.items("")])


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a bug")])
async def test_what_could_not_be_written_is_written_later(error: Exception) -> None:
    store = FailingStore(error)
    async with term_with_a_change() as term:
        await archive(term, store).save()
        assert list(term.unsaved) == ["p"]
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(archive(term, store, 0.001).keep())
            await store.written.wait()
            keeping.cancel()
    assert await kept(store) == ["program/p"]


async def test_a_save_that_is_cancelled_forgets_nothing() -> None:
    entered = asyncio.Event()

    class Hanging(EmbeddedStore):
        async def write(
            self,
            fence: str,
            token: int,
            put: Mapping[str, bytes],
            delete: Collection[str] = (),
            expire_seconds: float | None = None,
        ) -> int:
            if put:
                entered.set()
                await asyncio.Event().wait()
            return token

    async with term_with_a_change() as term, asyncio.timeout(SECONDS):
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(archive(term, Hanging(VirtualClock())).save())
            await entered.wait()
            saving.cancel()
        assert list(term.unsaved) == ["p"]


async def test_a_term_that_is_over_overwrites_nothing_and_learns_that_it_is_over() -> None:
    store = EmbeddedStore(VirtualClock())
    early, late = Leadership(1), Leadership(2)
    first, second = Term(SchedulerSection(), early), Term(SchedulerSection(), late)
    written = archive(first, store)
    await written.open()
    change(first, "first's")
    await written.save()
    await archive(second, store).open()  # from here on the store knows of the second
    change(first, "too late")
    await written.save()
    assert await kept(store) == ["program/first's"]
    assert (early.lost.is_set(), early.later_term) == (True, 2)
    assert not late.lost.is_set()
    assert second.core.programs.get("first's") is not None
    second.end()


async def test_what_cannot_be_read_at_first_is_added_later_and_nothing_is_written_before() -> None:
    store = AwayStore()
    async with new_term(1) as term:
        term.feed(ProgramRestored("p", "t", started=-100.0, num_finished=7, attained_seconds=42.0))
        term.feed(ProgramRestored("ended", "t", started=-100.0, num_finished=1))
        for program_id in ("p", "ended"):
            change(term, program_id)
        await archive(term, store).save()
    store.away = True
    async with new_term(2) as term:
        later = archive(term, store)
        await later.open()
        change(term)
        change(term, "ended")
        term.feed(ProgramEnded("ended"))
        await later.save()
        assert set(term.unsaved) == {"p", "ended"}
        store.away = False
        await later.save()
        program = term.core.programs.get("p")
        assert program is not None
        assert (program.num_finished, program.attained_seconds) == (7, 42.0)
        assert term.core.programs.get("ended") is None
        assert not term.unsaved
        await later.save()
        assert (program.num_finished, program.attained_seconds) == (7, 42.0)
    assert await kept(store) == ["program/p"]


async def test_a_store_that_answers_too_slowly_holds_up_no_term(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowStore(EmbeddedStore):
        async def items(self, prefix: str) -> AsyncGenerator[tuple[str, bytes]]:
            await asyncio.Event().wait()
            yield "", b""

    monkeypatch.setattr("services.scheduler.archive._OPEN_SECONDS", 0.0)
    store = SlowStore(VirtualClock())
    async with new_term() as term:
        late = archive(term, store)
        async with asyncio.timeout(SECONDS):
            await late.open()
        assert not term.core.programs.get("p")


async def many_programs(store: Store, count: int) -> None:
    """As a scheduler before left them."""
    async with new_term(1) as term:
        for number in range(count):
            term.feed(ProgramRestored(f"p{number}", "t", started=-float(number), num_finished=number + 1))
            term.unsaved[f"p{number}"] = None
        await archive(term, store).save()


async def test_others_get_their_turn_while_programs_are_restored() -> None:
    store = EmbeddedStore(VirtualClock())
    await many_programs(store, 2_000)
    num_turns = 0

    async def take_turns() -> None:
        nonlocal num_turns
        while True:
            await asyncio.sleep(0)
            num_turns += 1

    async with new_term(2) as term, asyncio.TaskGroup() as tasks:
        others = tasks.create_task(take_turns())
        await archive(term, store).open()
        others.cancel()
        assert len(term.core.programs) == 2_000
    assert num_turns >= 20


@pytest.mark.parametrize("ends", ["before", "meanwhile", "after"])
async def test_what_is_restored_late_is_restored_once_whenever_the_term_ends(ends: str) -> None:
    store = AwayStore()
    await many_programs(store, 1_000)
    store.away = True
    async with new_term(2) as term:
        late = archive(term, store)
        await late.open()
        store.away = False
        for number in range(1_000):
            change(term, f"p{number}")
        store.was_read.clear()
        if ends != "before":
            saving = asyncio.create_task(late.save())
            await store.was_read.wait()
            assert 0 < restored(term) < 1_000
            if ends == "meanwhile":
                saving.cancel()
            await asyncio.wait([saving])
        term.end()
        await late.save()
        assert not term.unsaved
    async with new_term(3) as term:
        await archive(term, store).open()
        assert sorted(program.num_finished for program in term.core.programs.live()) == list(range(1, 1_001))


def restored(term: Term) -> int:
    return sum(program.num_finished > 0 for program in term.core.programs.live())


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
    changed = [action.program_id for action in stage.actions[before:] if isinstance(action, ProgramChanged)]
    assert "p" in changed
