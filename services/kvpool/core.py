"""The pool's core: which blocks are kept where, who reads and writes them, and what moves.

Contract. Every request is answered once, an Acquire or PeerRead by its deadline. Blocks are readable when all their
shards are committed or copied whole, and only behind their prefix. Two live blocks never share a place; what is leased
or being copied stays where it is; a place is used again when the last lease or transfer on it has ended. All memory is
bounded by the tiers and the limits, once leases and reservations have lapsed. Unknown ids are ignored.

It needs no shell: a replay feeds events at its own times, `Acquire` with `wait_seconds` 0, `BeginStore` and `Commit`
at once, and `programs` lets it set what only a replay knows.
"""

from collections.abc import Sequence
from itertools import count
from typing import assert_never

from services.common.agenda import Agenda
from services.common.errors import Reason
from services.kvpool import events, invariants, report
from services.kvpool.actions import (
    Action,
    AnswerAttach,
    AnswerBeginStore,
    AnswerCommit,
    AnswerDemote,
    Changes,
    ForgetDisk,
    Match,
    Refuse,
    Status,
)
from services.kvpool.allocator import Slots
from services.kvpool.changes import ChangeLog
from services.kvpool.counts import Counts
from services.kvpool.disk import Disk
from services.kvpool.events import Event
from services.kvpool.eviction import Costs, Eviction
from services.kvpool.foresight import Foresight, Foretold
from services.kvpool.gaps import Gap, Gaps
from services.kvpool.leases import Lease, Leases
from services.kvpool.limits import Limits
from services.kvpool.namespace import Namespace
from services.kvpool.peers import Peers
from services.kvpool.places import DRAM, SSD, Places
from services.kvpool.programs import Programs, Returns
from services.kvpool.readers import Readers
from services.kvpool.reservations import Partial, Reservation, Reservations
from services.kvpool.retention import Policy
from services.kvpool.tree import Space, Tree
from services.kvpool.waits import Waits, Want


class Core:
    """`programs`, `namespaces`, `places`, `eviction` and `counts` may be read by anyone."""

    def __init__(
        self,
        dram_bytes: int,
        ssd_bytes: int,
        policy: Policy,
        costs: Costs,
        returns: Returns,
        limits: Limits | None = None,
        life: str = "",
    ) -> None:
        """`life` begins the ids of reservations, so that writers which outlive a pool do not meddle with the next."""
        limits = limits or Limits()
        self.limits = limits
        self.places = Places(Slots(dram_bytes, limits.align_bytes), Slots(ssd_bytes, limits.align_bytes))
        self.counts = Counts()
        self.changes = ChangeLog(limits.max_changes)
        self.namespaces: dict[str, Namespace] = {}
        self._agenda: Agenda[object] = Agenda()
        self.foresight = Foresight(returns, self._agenda, limits.max_programs)
        self.programs = Programs(limits, self.foresight)
        self._trees: dict[str, Tree] = {}
        self.eviction = Eviction(policy, costs, limits, self.places, self._trees)
        self._actions: list[Action] = []
        jobs = count(1)
        shared = (limits, self.places, self.eviction)
        self.disk = Disk(*shared, self.namespaces, self._agenda, self.counts, self._actions, jobs)
        self.peers = Peers(*shared, self.counts, self._actions, jobs)
        self.reservations = Reservations(*shared, self.programs, self._agenda, self.counts, life)
        self.leases = Leases(self.places, self._agenda)
        self.waits = Waits(self.leases, self._agenda, self.counts, self._actions)
        self.readers = Readers(
            *(limits, self.eviction, self.programs, self.disk, self.peers, self.leases, self.waits),
            *(self.counts, self._actions),
        )
        self.gaps = Gaps(limits, costs, self.readers, self.leases, self._agenda)

    def handle(self, event: Event, now: float) -> list[Action]:
        match event:
            case events.Acquire() | events.PeerRead() | events.Prefetch():
                self._read(event, now)
            case events.BeginStore():
                self._begin(event, now)
            case events.Commit():
                self._commit(event, now)
            case events.Abort():
                if (reservation := self.reservations.open.get(event.reservation_id)) is not None:
                    self.reservations.end(reservation, now)
            case events.Release():
                self.readers.release(event, now)
            case events.CallerGone():
                self.waits.caller_gone(event.request)
            case events.FinishCall():
                self.programs.finish(event.namespace_id, event.user, now)
                self.gaps.begin(self.programs.named(event.user.program_id, event.user.name), now)
            case events.Attach():
                self._attach(event)
            case events.Demote():
                num_blocks = self.disk.demote(self.programs.chains(event.program_id), now)
                self._actions.append(AnswerDemote(event.request, num_blocks))
            case events.ReleaseProgram():
                self.programs.release(event.program_id, now)
            case events.ThreadForeseen():
                chains = self.programs.named(event.program_id, event.thread)
                self.foresight.hear(event, [chain.thread for chain in chains], now)
                self.gaps.begin(chains, now)
            case events.DiskWritten():
                self.disk.on_written(event)
            case events.DiskRead():
                self.disk.on_read(event)
            case events.Pulled():
                self.peers.on_pulled(event, now)
            case events.PeerResolved():
                if (asked := self.peers.on_resolved(event)) is not None:
                    self.readers.bring(self.namespaces[asked.namespace_id], asked, event.hashes, now)
            case events.DiskRestored():
                self._restore(event, now)
            case events.DiskUnusable():
                self.disk.unusable(event, now)
            case _:
                assert_never(event)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        while dues := self._agenda.pop_due(now, 1):  # one at a time: what is done for it may strike others
            match due := dues[0]:
                case Want():
                    self.waits.finish(due, now)
                case Lease():
                    self.readers.end(due, now)
                case Reservation():
                    self.reservations.end(due, now)
                case Partial():
                    self.reservations.give_up(due, now)
                case Foretold():
                    self.foresight.expire(due)
                    self.gaps.begin(self.programs.named(*due.name), now)
                case Gap():
                    if (prefetch := self.gaps.due(due)) is not None:
                        self._read(prefetch, now)
                case _:
                    self.disk.retry()
        return self._settle(now)

    def next_tick(self) -> float | None:
        return self._agenda.next()

    def match(self, namespace_id: str, hashes: Sequence[bytes]) -> Match | None:
        """How much of a chain is here; None: the namespace is unknown."""
        namespace = self.namespaces.get(namespace_id)
        if namespace is None:
            return None
        tree = namespace.tree
        matched = tree.match(hashes)
        tip = tree.index[hashes[matched - 1]] if matched else tree.root
        return Match(matched, tree.dram_end(tip, 0, matched))

    def resolve(self, namespace_id: str, tip: int, num_blocks: int, first_block: int = 0) -> list[bytes]:
        """The chain of `num_blocks` that ends in a block known by its low 64 bits, from `first_block` on; empty: it is
        not here."""
        namespace = self.namespaces.get(namespace_id)
        return self.readers.resolve(namespace, tip, num_blocks)[first_block:] if namespace is not None else []

    def changes_since(self, revision: int) -> Changes:
        """What changed for those who follow; everything, with `reset`, when that is forgotten. Revisions begin at 0."""
        return self.changes.since(revision) or report.everything(self)

    def status(self) -> Status:
        """Counts."""
        return report.status(self)

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        invariants.check(self)

    def _settle(self, now: float) -> list[Action]:
        for namespace in self.namespaces.values():
            while namespace.stirred:
                self.waits.look(namespace.stirred.popitem()[0], now)
        self.disk.balance(now)
        actions = list(self._actions)
        self._actions.clear()
        if self.places.forgotten:
            actions.insert(0, ForgetDisk(tuple(self.places.forgotten)))
            self.places.forgotten.clear()
        return actions

    def _known(self, request: int, namespace_id: str) -> Namespace | None:
        namespace = self.namespaces.get(namespace_id)
        if namespace is None:
            self._actions.append(Refuse(request, Reason.MODEL_NOT_FOUND, f"unknown KV namespace {namespace_id!r}"))
        return namespace

    def _attach(self, event: events.Attach) -> None:
        space = Space(event.namespace_id, event.num_shards, event.shard_bytes, event.block_tokens)
        if min(event.num_shards, event.shard_bytes, event.block_tokens) < 1:
            self._actions.append(Refuse(event.request, Reason.INVALID_ARGUMENT, "a namespace without content"))
        elif self.places.slots[DRAM].slot_bytes(space.block_bytes) > self.places.slots[DRAM].capacity_bytes:
            message = f"a block of {space.block_bytes} bytes is larger than the pool"
            self._actions.append(Refuse(event.request, Reason.INVALID_ARGUMENT, message))
        elif self._introduce(space).space != space:
            message = f"namespace {event.namespace_id} has another shape here"
            self._actions.append(Refuse(event.request, Reason.INVALID_ARGUMENT, message))
        else:
            self._actions.append(AnswerAttach(event.request))

    def _introduce(self, space: Space) -> Namespace:
        namespace = self.namespaces.get(space.namespace_id)
        if namespace is None:
            namespace = Namespace(space, self.places, self.changes, self.programs)
            self.namespaces[space.namespace_id] = namespace
            self._trees[space.namespace_id] = namespace.tree
        return namespace

    def _read(self, event: events.Acquire | events.PeerRead | events.Prefetch, now: float) -> None:
        namespace = self._known(event.request, event.namespace_id)
        if namespace is None:
            return
        match event:
            case events.Acquire():
                self.readers.acquire(namespace, event, now)
                for chain in self.programs.named(event.user.program_id, event.user.name):
                    self.gaps.end(chain, now)
            case events.PeerRead():
                self.readers.peer_read(namespace, event, now)
            case events.Prefetch():
                self.readers.prefetch(namespace, event, now)

    def _begin(self, event: events.BeginStore, now: float) -> None:
        namespace = self._known(event.request, event.namespace_id)
        if namespace is None:
            return
        if not 0 <= event.shard < namespace.space.num_shards:
            self._actions.append(Refuse(event.request, Reason.INVALID_ARGUMENT, f"there is no shard {event.shard}"))
            return
        self._actions.append(AnswerBeginStore(event.request, *self.reservations.begin(namespace, event, now)))

    def _commit(self, event: events.Commit, now: float) -> None:
        try:
            num_blocks = self.reservations.commit(event.reservation_id, event.checksums, now)
        except ValueError as error:
            self._actions.append(Refuse(event.request, Reason.INVALID_ARGUMENT, str(error)))
            return
        if num_blocks is None:
            self._actions.append(Refuse(event.request, Reason.LEASE_LOST, "the reservation has lapsed"))
        else:
            self._actions.append(AnswerCommit(event.request, num_blocks))

    def _restore(self, event: events.DiskRestored, now: float) -> None:
        entries = sorted(event.entries, key=lambda entry: entry.position)
        sizes = [entry.num_shards * entry.shard_bytes for entry in entries]
        places = list(zip((entry.offset for entry in entries), sizes, strict=True))
        for entry, accepted in zip(entries, self.places.slots[SSD].restore(places), strict=True):
            if not accepted:
                if entry.offset not in self.places.slots[SSD]:
                    self.places.forgotten.append(entry.offset)
                continue
            space = Space(entry.namespace_id, entry.num_shards, entry.shard_bytes, entry.block_tokens)
            namespace = self._introduce(space)
            right = namespace.space == space and len(entry.checksums) == entry.num_shards
            if right and entry.key not in namespace.tree.index:
                namespace.adopt([entry], now)
            else:
                self.places.vacate(SSD, entry.offset, ())
