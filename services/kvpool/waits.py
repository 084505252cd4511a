"""Waits: readers whose blocks are not all in DRAM yet.

A reader is answered when the next block that it lacks is not coming, and at its deadline at the latest, with the
leading blocks that are there by then. It waits for what is being copied from disk or a peer, whoever asked for that;
for blocks that workers store only as far as it expects them. What is there already is held meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.agenda import Agenda
from services.kvpool.actions import Action, AnswerAcquire, AnswerPeerRead
from services.kvpool.counts import Counts
from services.kvpool.leases import Lease, Leases
from services.kvpool.places import DRAM, SSD
from services.kvpool.tree import Node


@dataclass(slots=True, eq=False)
class Want:
    """A reader that waits."""

    lease: Lease
    request: int | None
    """None: nobody waits for an answer (a prefetch)."""
    for_peer: bool
    deadline: float
    lease_seconds: float
    num_expected: int = 0
    from_ssd: Sequence[int] = field(default_factory=list[int])
    """Positions that are being read, ascending."""
    from_peer: tuple[int, int] = (0, 0)
    """Stretch that is being pulled."""
    missing: bytes = b""
    """The block that it waits for."""


class Waits:
    """`agenda` calls back with a Want at its deadline."""

    def __init__(self, leases: Leases, agenda: Agenda[object], counts: Counts, actions: list[Action]) -> None:
        self.open: dict[str, Want] = {}
        """By lease."""
        self._requests: dict[int, Want] = {}
        self._leases = leases
        self._agenda = agenda
        self._counts = counts
        self._actions = actions

    def begin(self, want: Want, now: float) -> None:
        """A reader comes; its lease is taken."""
        self.open[want.lease.lease_id] = want
        if want.request is not None:
            self._requests[want.request] = want
        self._agenda.set(want, want.deadline)
        self.look(want, now)

    def look(self, want: Want, now: float) -> None:
        """Something came or failed to come: answer, or wait for what is missing next."""
        if want.lease.lease_id not in self.open:
            return
        lease, namespace = want.lease, want.lease.namespace
        self._unlist(want)
        ready, _ = self._ready(lease)
        self._leases.cover(lease, ready)
        if now < want.deadline and ready < len(lease.hashes):
            key = lease.hashes[ready]
            if key in namespace.incoming or ready < want.num_expected:
                want.missing = key
                namespace.waiting.setdefault(key, []).append(want)
                return
        self.finish(want, now)

    def finish(self, want: Want, now: float) -> None:
        """Answer with what is there."""
        self._forget(want)
        lease = want.lease
        if want.request is None:
            return
        self._leases.extend(lease, now + want.lease_seconds)
        ready, _ = self._ready(lease)
        lease.answered = True
        num_given = max(0, ready - lease.first)
        if not want.for_peer:
            low, high = want.from_peer
            lease.num_from_ssd = sum(1 for position in want.from_ssd if lease.first <= position < ready)
            lease.num_from_peer = max(0, min(ready, high) - max(low, lease.first))
            self._counts.num_requested += len(lease.hashes) - lease.first
            self._counts.num_missed += len(lease.hashes) - lease.first - num_given
            self._counts.num_hits[SSD] += lease.num_from_ssd
            self._counts.num_hits[DRAM] += max(0, num_given - lease.num_from_ssd - lease.num_from_peer)
        self.answer(lease, want.request, want.for_peer)

    def answer(self, lease: Lease, request: int, for_peer: bool) -> None:
        """Say what the lease holds; again, if it was said before."""
        ready, tip = self._ready(lease)
        self._leases.cover(lease, ready)
        first, space = lease.first, lease.namespace.space
        offsets, sums = lease.namespace.tree.read(tip, first, ready) if ready > first else ([], [])
        lease.offsets = offsets
        if not for_peer:
            self._actions.append(AnswerAcquire(request, offsets, sums, lease.num_from_ssd, lease.num_from_peer))
            return
        shape = (space.num_shards, space.shard_bytes, first, lease.hashes[first - 1] if offsets and first else b"")
        self._actions.append(AnswerPeerRead(request, *shape, lease.hashes[first:ready], offsets, sums))

    def ready(self, lease: Lease) -> int:
        """Leading blocks of the lease's chain that can be read now."""
        return self._ready(lease)[0]

    def caller_gone(self, request: int) -> None:
        """Nobody wants the answer."""
        want = self._requests.get(request)
        if want is not None:
            self.drop(want)

    def drop(self, want: Want) -> None:
        """No answer, no lease."""
        self._forget(want)
        self._leases.end(want.lease)

    def _ready(self, lease: Lease) -> tuple[int, Node]:
        """Leading blocks that can be read (those before `first` need only be known), and where they end."""
        tree = lease.namespace.tree
        matched = tree.match(lease.hashes)
        tip = tree.index[lease.hashes[matched - 1]] if matched else tree.root
        return tree.dram_end(tip, min(lease.first, matched), matched), tip

    def _forget(self, want: Want) -> None:
        self._unlist(want)
        self.open.pop(want.lease.lease_id, None)
        if want.request is not None:
            self._requests.pop(want.request, None)
        self._agenda.discard(want)

    def _unlist(self, want: Want) -> None:
        waiting = want.lease.namespace.waiting
        if want.missing in waiting:
            waiting[want.missing] = [other for other in waiting[want.missing] if other is not want]
            if not waiting[want.missing]:
                del waiting[want.missing]
        want.missing = b""
