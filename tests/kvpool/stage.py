"""A stage for the pool's core: virtual time, an arena and a disk that remember what was put where, peers that answer.

Transfers wait until the test ends them (`finish`), or end at once with `prompt=True`. After every event the core's
invariants are checked, and that every leased block still holds what it should.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

from services.common.laws import Law
from services.kvpool import events
from services.kvpool.actions import (
    NO_ROOM,
    AnswerAcquire,
    AnswerBeginStore,
    ForgetDisk,
    Pull,
    ReadDisk,
    ResolvePeer,
    WriteDisk,
)
from services.kvpool.core import Core
from services.kvpool.events import DiskEntry, ReleasedLease, Replica, User
from services.kvpool.limits import Limits
from services.kvpool.retention import Policy
from services.kvpool.segment import Pressure, Program, Segment, Thread

A = TypeVar("A")
BLOCK = 64
"""Bytes of a block in the stage's namespaces."""


class Recency:
    """A policy: what a call uses now, then what was used last is worth most."""

    def rank(self, segment: Segment, now: float, pressure: Pressure) -> float:
        running = any(thread.num_running for thread in segment.threads.values())
        return inf if running else 1.0 + segment.last_used


class Flat:
    """Costs by size alone."""

    def recompute_seconds(self, first_token: int, num_tokens: int) -> float:
        return 1e-3 * num_tokens

    def reload_seconds(self, num_bytes: int, source: str) -> float:
        return 1e-9 * num_bytes


@dataclass
class Gaps:
    """Remembers what it was told of returns."""

    observed: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Of programs; infinite: gone."""
    threads: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Gaps; 0: left, infinite: ended."""

    def observe(self, program: Program, gap_seconds: float) -> None:
        self.observed.append((program.program_id, gap_seconds))

    def law(self, program: Program) -> Law | None:
        return None

    def gone(self, program: Program, now: float) -> None:
        self.observed.append((program.program_id, inf))

    def began(self, thread: Thread, agent: str, now: float) -> None:
        if thread.num_calls and not thread.num_running:
            self.threads.append((thread.thread_id, now - thread.idle_since))

    def finished(self, thread: Thread, now: float) -> None:
        self.threads.append((thread.thread_id, 0.0))

    def ended(self, thread: Thread, now: float) -> None:
        self.threads.append((thread.thread_id, inf))


def chain(text: str) -> tuple[bytes, ...]:
    """One block for each letter, chained: chains that begin alike share blocks."""
    hashes: list[bytes] = []
    parent = b""
    for letter in text:
        parent = hashlib.sha256(parent + letter.encode()).digest()
        hashes.append(parent)
    return tuple(hashes)


def content(key: bytes, num_shards: int) -> tuple[int, ...]:
    """What a right block holds; also its checksums."""
    return tuple(int.from_bytes(key[:7], "big") * 8 + shard for shard in range(num_shards))


Job = WriteDisk | ReadDisk | Pull | ResolvePeer


class Stage:
    """One core. Namespaces: "one" with a single shard, "two" with two, "big" with blocks three times as large."""

    def __init__(
        self,
        dram_blocks: int = 8,
        ssd_blocks: int = 0,
        *,
        prompt: bool = True,
        disk: Sequence[DiskEntry] = (),
        policy: Policy | None = None,
        **limits: Any,
    ) -> None:
        self.now = 100.0
        self.gaps = Gaps()
        bounds = Limits(**{"align_bytes": 1, **limits})
        self.core = Core(dram_blocks * BLOCK, ssd_blocks * BLOCK, policy or Recency(), Flat(), self.gaps, bounds)
        self.prompt = prompt
        self.arena: dict[int, tuple[int, ...]] = {}
        self.disk: dict[int, DiskEntry] = {}
        self.peer: dict[str, Sequence[bytes]] = {}
        """Chains that a peer has, by data address."""
        self.jobs: dict[int, Job] = {}
        self.answers: dict[int, Any] = {}
        self.leases: dict[str, tuple[str, tuple[bytes, ...], Sequence[int]]] = {}
        """Answered ones: namespace, hashes and offsets."""
        self._request = 0
        self.shapes: dict[str, tuple[int, int]] = {"one": (1, BLOCK), "two": (2, BLOCK // 2), "big": (1, 3 * BLOCK)}
        if disk:
            self.disk = {entry.offset: entry for entry in disk}
            self.feed(events.DiskRestored(tuple(disk)))
        for name, (num_shards, shard_bytes) in self.shapes.items():
            self.ask(events.Attach(self.request(), name, num_shards, shard_bytes, 16), object)

    def request(self) -> int:
        self._request += 1
        return self._request

    def feed(self, event: events.Event) -> None:
        """Let something happen; prompt transfers end before this returns."""
        self._perform(self.core.handle(event, self.now))
        self._look()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while (due := self.core.next_tick()) is not None and due <= until:
            self.now = max(self.now, due)
            self._perform(self.core.tick(self.now))
            self._look()
        self.now = until

    def ask(self, event: Any, kind: type[A]) -> A:
        """Feed a request and return its answer, which must be there then."""
        self.feed(event)
        answer = self.answers.pop(event.request)
        assert isinstance(answer, kind), answer
        return answer

    def begin(
        self,
        text: str,
        user: str = "p",
        *,
        name: str = "one",
        start: int = 0,
        shard: int = 0,
        seconds: float = 5.0,
        thread: str = "",
    ) -> AnswerBeginStore:
        hashes = chain(text)
        parent = hashes[start - 1] if start else b""
        place = (hashes[start:], parent, start, shard)
        return self.ask(
            events.BeginStore(self.request(), name, *place, User(user, thread=thread), seconds), AnswerBeginStore
        )

    def write(self, text: str, answer: AnswerBeginStore, *, name: str = "one", start: int = 0, shard: int = 0) -> Any:
        """Put the right content where the reservation says, and commit."""
        keys = [key for key, at in zip(chain(text)[start:], answer.offsets, strict=True) if at != NO_ROOM]
        places = [at for at in answer.offsets if at != NO_ROOM]
        num_shards = self.shapes[name][0]
        for key, place in zip(keys, places, strict=True):
            shards = list(self.arena.get(place, (0,) * num_shards))[:num_shards]
            shards += [0] * (num_shards - len(shards))
            shards[shard] = content(key, num_shards)[shard]
            self.arena[place] = tuple(shards)
        sums = tuple(content(key, num_shards)[shard] for key in keys)
        event = events.Commit(self.request(), answer.reservation_id, sums)
        self.feed(event)
        return self.answers.pop(event.request)

    def store(self, text: str, user: str = "p", *, name: str = "one", start: int = 0, thread: str = "") -> int:
        """Store all shards of a chain. Returns how many blocks became readable."""
        num_blocks = 0
        for shard in range(self.shapes[name][0]):
            answer = self.begin(text, user, name=name, start=start, shard=shard, thread=thread)
            if answer.reservation_id:
                num_blocks = self.write(text, answer, name=name, start=start, shard=shard).num_blocks
        return num_blocks

    def acquiring(
        self,
        lease: str,
        text: str,
        user: str = "p",
        *,
        name: str = "one",
        held: int = 0,
        wait: float = 1.0,
        seconds: float = 5.0,
        expected: int = 0,
        replica: tuple[str, int] | None = None,
        prefetch: str = "",
        thread: str = "",
    ) -> events.Acquire:
        there = None if replica is None else Replica("other", *replica)
        return events.Acquire(
            *(self.request(), lease, name, chain(text), held, User(user, thread=thread), there, wait, seconds),
            *(expected, prefetch),
        )

    def acquire(self, lease: str, text: str, user: str = "p", **more: Any) -> AnswerAcquire:
        """Acquire, with the answer at once."""
        return self.ask(self.acquiring(lease, text, user, **more), AnswerAcquire)

    def release(self, lease: str, corrupt: Sequence[int] = ()) -> None:
        self.leases.pop(lease, None)
        self.feed(events.Release((ReleasedLease(lease, corrupt_blocks=corrupt),)))

    def call(self, text: str, user: str = "p", *, thread: str = "") -> int:
        """A whole call: acquire, store what is missing, finish. Returns the blocks that were here."""
        lease = f"call{self.request()}"
        found = len(self.acquire(lease, text, user, thread=thread).offsets)
        self.store(text, user, thread=thread)
        self.release(lease)
        self.feed(events.FinishCall("one", User(user, thread=thread)))
        return found

    def held(self, text: str, name: str = "one") -> tuple[int, int]:
        """Leading blocks in any tier, and in DRAM."""
        match = self.core.match(name, chain(text))
        assert match is not None
        return match.num_blocks, match.num_dram_blocks

    def finish(self, job: int, num_ok: int | None = None) -> None:
        """End a transfer; its blocks from `num_ok` on fail."""
        action = self.jobs.pop(job)
        match action:
            case WriteDisk():
                self._written(action, num_ok)
            case ReadDisk():
                told: list[bool] = []
                for at, block in enumerate(action.blocks):
                    entry = self.disk.get(block.disk_offset)  # None: forgotten meanwhile
                    told.append(entry is not None and (num_ok is None or at < num_ok))
                    if entry is not None and told[-1]:
                        assert entry.key == block.key, "the disk holds another block there"
                        self.arena[block.arena_offset] = tuple(entry.checksums)
                self.feed(events.DiskRead(job, told))
            case Pull():
                self._pulled(action, num_ok)
            case ResolvePeer():
                found = self.peer.get(action.replica.data_address, ()) if num_ok is None else ()
                hashes = found[: action.num_blocks]
                self.feed(events.PeerResolved(job, hashes[action.first_block :]))

    def finish_all(self, num_ok: int | None = None) -> None:
        while self.jobs:
            self.finish(next(iter(self.jobs)), num_ok)

    def _written(self, action: WriteDisk, num_ok: int | None) -> None:
        ok = _leading(len(action.blocks), num_ok)
        shape = (action.namespace_id, action.num_shards, action.shard_bytes, action.block_tokens)
        for block, good in zip(action.blocks, ok, strict=True):
            assert self.arena[block.arena_offset] == tuple(block.checksums), "what is written has changed"
            assert block.disk_offset not in self.disk, "written over what was not forgotten"
            if good:
                place = (block.key, block.parent, block.position, block.disk_offset)
                self.disk[block.disk_offset] = DiskEntry(*shape, *place, tuple(block.checksums))
        self.feed(events.DiskWritten(action.job, ok))

    def _pulled(self, action: Pull, num_ok: int | None) -> None:
        wanted = action.prefix[action.first_block :]
        known = set(self.peer.get(action.replica.data_address, ()))
        came = [key for key in wanted if key in known][: len(wanted) if num_ok is None else num_ok]
        sums: list[int] = []
        for key, offset in zip(came, action.offsets, strict=False):
            self.arena[offset] = content(key, action.num_shards)
            sums += content(key, action.num_shards)
        self.feed(events.Pulled(action.job, len(came), tuple(sums)))

    def _perform(self, actions: Sequence[Any]) -> None:
        for action in actions:
            match action:
                case WriteDisk() | ReadDisk() | Pull() | ResolvePeer():
                    self.jobs[action.job] = action
                case ForgetDisk():
                    for offset in action.offsets:
                        self.disk.pop(offset, None)
                case _:
                    assert action.request not in self.answers, "answered twice"
                    self.answers[action.request] = action
        if self.prompt:
            self.finish_all()

    def _look(self) -> None:
        self.core.check()
        for lease_id in [lease_id for lease_id in self.leases if lease_id not in self.core.leases.held]:
            del self.leases[lease_id]
        for lease_id, lease in self.core.leases.held.items():
            if lease.answered and lease_id not in self.leases:
                name = lease.namespace.space.namespace_id
                keys = tuple(lease.hashes[lease.first : lease.first + len(lease.offsets)])
                self.leases[lease_id] = (name, keys, tuple(lease.offsets))
        for name, keys, offsets in self.leases.values():
            for key, offset in zip(keys, offsets, strict=True):
                assert self.arena.get(offset) == content(key, self.shapes[name][0]), "a leased block changed"


def _leading(count: int, num_ok: int | None) -> tuple[bool, ...]:
    return tuple(num_ok is None or at < num_ok for at in range(count))
