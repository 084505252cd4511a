"""Whatever happens in whatever order: places are never shared, what is leased stays, readers are answered in time with
blocks that are whole, and in the end everything is given back."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.common.laws import Quantiles
from services.kvpool import events
from services.kvpool.actions import NO_ROOM, AnswerAcquire, AnswerBeginStore, AnswerPeerRead
from services.kvpool.changes import short
from services.kvpool.events import Replica, User
from tests.kvpool.stage import Stage, chain

TEXTS = st.text("ab", min_size=1, max_size=9)
NAMES = st.sampled_from(["one", "one", "two", "big"])
USERS = st.builds(User, st.sampled_from(["p", "p", "q", "r", ""]), thread=st.sampled_from(["", "t"]))
WAITS = st.sampled_from([0.0, 0.5, 2.0])
SECONDS = st.sampled_from([0.0, 0.5, 3.0, 8.0])


class Pool(RuleBasedStateMachine):
    """Workers, peers, a disk and time. The stage checks the core's invariants and all leased bytes after each event."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: dict[int, float] = {}
        """Readers without an answer."""
        self.writers: dict[str, tuple[str, str, int, int, AnswerBeginStore]] = {}
        """Reservations: namespace, text, start, shard, answer."""
        self.followed: dict[tuple[str, int], str] = {}
        """What a follower knows, by namespace and short hash."""
        self.revision = 0
        self.next_lease = 0

    @initialize(
        dram=st.integers(3, 14),
        ssd=st.sampled_from([0, 4, 20]),
        prompt=st.booleans(),
        job=st.sampled_from([64, 999]),
        chance=st.sampled_from([0.0, 0.1]),
    )
    def begin(self, dram: int, ssd: int, prompt: bool, job: int, chance: float) -> None:
        limits: dict[str, Any] = {
            "disk_job_bytes": job,
            "disk_retry_seconds": 5.0,
            "max_changes": 40,
            "prefetch_chance": chance,
        }
        self.stage = Stage(dram, ssd, prompt=prompt, **limits)
        self.dram, self.ssd = dram, ssd

    @rule(text=TEXTS, name=NAMES, user=USERS, held=st.integers(0, 3), wait=WAITS, seconds=SECONDS, data=st.data())
    def acquire(
        self, text: str, name: str, user: User, held: int, wait: float, seconds: float, data: st.DataObject
    ) -> None:
        replica = data.draw(st.sampled_from([None, Replica("other", "x", len(text)), Replica("other", "y", 3)]))
        prefetch = data.draw(st.sampled_from(sorted(self.stage.core.leases.held) or [""]))
        expected = data.draw(st.sampled_from([0, 0, 4]))
        self.next_lease += 1
        lease = data.draw(st.sampled_from([f"l{self.next_lease}", "again"]))
        shape = (lease, name, chain(text), held, user, replica, wait, seconds, expected, prefetch)
        event = events.Acquire(self.stage.request(), *shape)
        self.deadlines[event.request] = self.stage.now + wait
        self.stage.feed(event)

    @rule(text=TEXTS, name=NAMES, first=st.integers(0, 3), wait=WAITS, seconds=SECONDS, by_tip=st.booleans())
    def peer_read(self, text: str, name: str, first: int, wait: float, seconds: float, by_tip: bool) -> None:
        hashes = chain(text)
        self.next_lease += 1
        given, tip = ((), short(hashes[-1])) if by_tip else (hashes, 0)
        lease = f"peer{self.next_lease}"
        event = events.PeerRead(self.stage.request(), lease, name, given, tip, len(hashes), first, wait, seconds)
        self.deadlines[event.request] = self.stage.now + wait
        self.stage.feed(event)

    @rule(text=TEXTS, name=NAMES, seconds=SECONDS, peer=st.sampled_from(["", "x", "y"]))
    def prefetch(self, text: str, name: str, seconds: float, peer: str) -> None:
        hashes = chain(text)
        self.next_lease += 1
        replica = Replica("other", peer, len(hashes)) if peer else None
        handle = (name, short(hashes[-1]), len(hashes), replica)
        event = events.Prefetch(self.stage.request(), *handle, f"fetch{self.next_lease}", seconds)
        self.stage.feed(event)
        del self.stage.answers[event.request]

    @rule(text=TEXTS, name=NAMES, user=USERS, start=st.integers(0, 4), seconds=SECONDS, shard=st.integers(0, 1))
    def begin_store(self, text: str, name: str, user: User, start: int, seconds: float, shard: int) -> None:
        start = min(start, len(text) - 1)
        shard = min(shard, self.stage.shapes[name][0] - 1)
        hashes = chain(text)
        place = (hashes[start:], hashes[start - 1] if start else b"", start, shard, user, seconds)
        answer = self.stage.ask(events.BeginStore(self.stage.request(), name, *place), AnswerBeginStore)
        assert bool(answer.reservation_id) == any(at != NO_ROOM for at in answer.offsets)
        if answer.reservation_id:
            self.writers[answer.reservation_id] = (name, text, start, shard, answer)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name, text, start, shard, answer = self.writers.pop(data.draw(st.sampled_from(sorted(self.writers))))
        if answer.reservation_id in self.stage.core.reservations.open:  # a late writer's bytes fail their checksums
            self.stage.write(text, answer, name=name, start=start, shard=shard)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(sorted(self.writers)))
        del self.writers[reservation]
        self.stage.feed(events.Abort(reservation))

    @rule(text=TEXTS, name=NAMES, user=st.sampled_from(["p", "q", "r"]))
    def store(self, text: str, name: str, user: str) -> None:
        self.stage.store(text, user, name=name)

    @precondition(lambda self: self.stage.core.leases.held)
    @rule(data=st.data(), corrupt=st.lists(st.integers(0, 5), max_size=2))
    def release(self, data: st.DataObject, corrupt: list[int]) -> None:
        self.stage.release(data.draw(st.sampled_from(sorted(self.stage.core.leases.held))), corrupt)

    @precondition(lambda self: self.deadlines)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.deadlines)))
        del self.deadlines[request]
        self.stage.feed(events.CallerGone(request))

    @rule(user=USERS, valid=SECONDS, running=st.booleans())
    def foresee(self, user: User, valid: float, running: bool) -> None:
        name = user.thread or user.agent
        self.stage.feed(events.ThreadForeseen(user.program_id, name, Quantiles([1.0, 4.0]), valid, running))

    @rule(user=USERS)
    def finish_call(self, user: User) -> None:
        self.stage.feed(events.FinishCall("one", user))

    @rule(text=TEXTS, name=NAMES, user=st.sampled_from("pqr"), demote=st.booleans())
    def call(self, text: str, name: str, user: str, demote: bool) -> None:
        self.next_lease += 1
        self.acquire_for(f"l{self.next_lease}", text, name, User(user))
        self.stage.store(text, user, name=name)
        self.stage.release(f"l{self.next_lease}")
        self.stage.feed(events.FinishCall(name, User(user)))
        if demote:
            self.demote(user)

    def acquire_for(self, lease: str, text: str, name: str, user: User) -> None:
        event = events.Acquire(self.stage.request(), lease, name, chain(text), 0, user, None, 2.0, 3.0)
        self.deadlines[event.request] = self.stage.now + 2.0
        self.stage.feed(event)

    @rule(program=st.sampled_from("pqr"))
    def demote(self, program: str) -> None:
        event = events.Demote(self.stage.request(), program)
        self.stage.feed(event)
        del self.stage.answers[event.request]

    @rule(program=st.sampled_from("pqr"))
    def end_program(self, program: str) -> None:
        self.stage.feed(events.ReleaseProgram(program))

    @rule(text=TEXTS, peer=st.sampled_from(["x", "y"]))
    def peer_has(self, text: str, peer: str) -> None:
        self.stage.peer[peer] = chain(text)

    @precondition(lambda self: self.stage.jobs)
    @rule(data=st.data(), num_ok=st.sampled_from([None, None, 0, 1, 3]))
    def transfer(self, data: st.DataObject, num_ok: int | None) -> None:
        self.stage.finish(data.draw(st.sampled_from(sorted(self.stage.jobs))), num_ok)

    @rule(full=st.booleans(), chance=st.integers(0, 15))
    def lose_disk(self, full: bool, chance: int) -> None:
        if chance == 7 or (full and chance == 8):
            self.stage.feed(events.DiskUnusable(full))

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.stage.wait(seconds)

    @precondition(lambda self: self.ssd)
    @rule()
    def restart(self) -> None:
        self.deadlines.clear()
        self.writers.clear()
        self.followed, self.revision = {}, 0
        old = self.stage
        self.stage = Stage(self.dram, self.ssd, prompt=old.prompt, disk=list(old.disk.values()), max_changes=40)
        self.stage.peer = old.peer

    @invariant()
    def readers_are_answered_in_time(self) -> None:
        if not hasattr(self, "stage"):
            return
        answered: list[Any] = [self.stage.answers.pop(request) for request in list(self.stage.answers)]
        for answer in answered:
            assert isinstance(answer, AnswerAcquire | AnswerPeerRead)
            self.deadlines.pop(answer.request, None)
        for deadline in self.deadlines.values():
            assert deadline > self.stage.now, "a reader waits beyond its deadline"

    @invariant()
    def a_follower_knows_what_is_where(self) -> None:
        if not hasattr(self, "stage"):
            return
        changes = self.stage.core.changes_since(self.revision)
        self.revision = changes.revision
        if changes.reset:
            self.followed.clear()
        for update in changes.updates:
            for where, blocks in (("dram", update.dram), ("ssd", update.ssd)):
                self.followed.update({(update.namespace_id, block): where for block in blocks})
            for block in update.removed:
                self.followed.pop((update.namespace_id, block), None)
        fresh: dict[tuple[str, int], str] = {}
        for update in self.stage.core.changes_since(0).updates:
            fresh.update({(update.namespace_id, block): "dram" for block in update.dram})
            fresh.update({(update.namespace_id, block): "ssd" for block in update.ssd})
        assert self.followed == fresh

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        stage.prompt = True
        stage.finish_all()
        stage.wait(200)
        self.readers_are_answered_in_time()
        assert not self.deadlines
        for program in list(stage.core.programs):
            stage.feed(events.ReleaseProgram(program.program_id))
        status = stage.core.status()
        assert (status.num_leases, status.num_reservations) == (0, 0)
        assert not stage.core.places.graves()
        assert stage.core.next_tick() is None
        text = "z" * self.dram
        assert stage.store(text, "last") == self.dram, "not all room could be had"
        stage.wait(20)
        assert stage.held(text) == (self.dram, self.dram)


Pool.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestPool = Pool.TestCase
