"""Readers: calls, peers and prefetches that want blocks in DRAM; what is missing is sent for."""

from collections.abc import Sequence

from services.kvpool.actions import Action, AnswerPrefetch
from services.kvpool.changes import short
from services.kvpool.counts import Counts
from services.kvpool.disk import Disk
from services.kvpool.events import Acquire, PeerRead, Prefetch, Release
from services.kvpool.eviction import Eviction
from services.kvpool.leases import Lease, Leases
from services.kvpool.limits import Limits
from services.kvpool.namespace import Namespace
from services.kvpool.peers import Peers
from services.kvpool.places import DRAM, SSD
from services.kvpool.programs import Programs
from services.kvpool.waits import Waits, Want


class Readers:
    """See the module."""

    def __init__(
        self,
        limits: Limits,
        eviction: Eviction,
        programs: Programs,
        disk: Disk,
        peers: Peers,
        leases: Leases,
        waits: Waits,
        counts: Counts,
        actions: list[Action],
    ) -> None:
        self._limits = limits
        self._eviction = eviction
        self._programs = programs
        self._disk = disk
        self._peers = peers
        self._leases = leases
        self._waits = waits
        self._counts = counts
        self._actions = actions

    def acquire(self, namespace: Namespace, event: Acquire, now: float) -> None:
        """A call begins."""
        if self._repeated(event, now):
            return
        tree, hashes = namespace.tree, event.hashes
        want = self._want(namespace, event, hashes, event.num_held, now)
        want.num_expected = event.num_expected
        matched = tree.match(hashes)
        tip = tree.ending_at(hashes[matched - 1] if matched else b"", matched)
        want.lease.pin(tip)
        floors = (self._eviction.floors[DRAM], self._eviction.floors[SSD])
        chain = self._programs.begin(event.user, tree, tip, now, floors)
        if want.deadline > now:
            want.from_ssd = self._disk.fetch(namespace, tip, want.lease.first, matched, now)
            if event.replica is not None and event.replica.num_blocks > max(matched, want.lease.first):
                pull = (event.replica, chain, self._limits.pull_seconds, now)
                want.from_peer = self._peers.pull(namespace, hashes, tip, *pull)
        self._waits.begin(want, now)
        if event.prefetch_lease_id != event.lease_id:
            self.end(self._leases.held.get(event.prefetch_lease_id), now)

    def peer_read(self, namespace: Namespace, event: PeerRead, now: float) -> None:
        """Another pool wants to copy."""
        if self._repeated(event, now):
            return
        tree = namespace.tree
        hashes = event.hashes or self.resolve(namespace, event.tip, event.num_blocks)
        want = self._want(namespace, event, hashes, event.first_block, now)
        matched = tree.match(hashes)
        if matched and want.deadline > now:
            tip = tree.index[hashes[matched - 1]]
            want.lease.pin(tip)
            self._disk.fetch(namespace, tip, want.lease.first, matched, now)
        self._waits.begin(want, now)

    def prefetch(self, namespace: Namespace, event: Prefetch, now: float) -> None:
        """A call is about to come; the lease that it will take over begins."""
        num_blocks = 0
        if event.lease_id not in self._leases.held:
            hashes = self.resolve(namespace, event.tip, event.num_blocks)
            self._leases.take(Lease(event.lease_id, namespace, (), 0), now + self._prefetch_seconds(event))
            if hashes:
                num_blocks = self.bring(namespace, event, hashes, now)
            elif event.replica is not None:
                self._peers.resolve(event, event.replica)
        elif (lease := self._leases.held[event.lease_id]).hashes:
            num_blocks = self._waits.ready(lease)
        self._actions.append(AnswerPrefetch(event.request, num_blocks))

    def bring(self, namespace: Namespace, event: Prefetch, hashes: Sequence[bytes], now: float) -> int:
        """Send for a chain that a prefetch asked for, if its lease still lasts. Returns leading blocks in DRAM."""
        lease = self._leases.held.get(event.lease_id)
        if lease is None or lease.hashes:
            return 0
        lease.hashes = hashes
        tree = namespace.tree
        matched = tree.match(hashes)
        tip = tree.index[hashes[matched - 1]] if matched else tree.root
        lease.pin(tip)
        ready = self._waits.ready(lease)
        self._disk.fetch(namespace, tip, 0, matched, now)
        if event.replica is not None and event.replica.num_blocks > matched:
            tip = tree.ending_at(hashes[matched - 1] if matched else b"", matched)
            self._peers.pull(namespace, hashes, tip, event.replica, None, self._limits.pull_seconds, now)
        self._waits.begin(Want(lease, None, False, now + self._prefetch_seconds(event), 0.0), now)
        return ready

    def release(self, event: Release, now: float) -> None:
        """Leases end."""
        for released in event.leases:
            lease = self._leases.held.get(released.lease_id)
            if lease is None:
                continue
            self._counts.read_bytes[DRAM] += max(0, released.num_bytes)
            if released.corrupt_blocks:
                found, lost = self._leases.drop_corrupt(lease, released.corrupt_blocks)
                self._counts.num_corrupt += found
                self._eviction.reasons["corrupt"] += lost
            self.end(lease, now)

    def resolve(self, namespace: Namespace, tip: int, num_blocks: int) -> list[bytes]:
        """The chain of that length that ends in a block known by its low 64 bits; empty: it is not here."""
        key = namespace.tree.keys.get(tip)
        chain = namespace.tree.chain_to(key) if key is not None and short(key) == tip else []
        return chain if len(chain) == num_blocks else []

    def _want(
        self, namespace: Namespace, event: Acquire | PeerRead, hashes: Sequence[bytes], first: int, now: float
    ) -> Want:
        wait = min(max(event.wait_seconds, 0.0), self._limits.acquire_seconds)
        hold = min(max(event.lease_seconds, 0.0), self._limits.lease_seconds)
        lease = Lease(event.lease_id, namespace, hashes, min(max(first, 0), len(hashes)))
        self._leases.take(lease, now + wait + hold)
        return Want(lease, event.request, isinstance(event, PeerRead), now + wait, hold)

    def _repeated(self, event: Acquire | PeerRead, now: float) -> bool:
        """Answer anew what was asked under the same lease."""
        lease = self._leases.held.get(event.lease_id)
        if lease is None:
            return False
        if (want := self._waits.open.get(event.lease_id)) is not None:
            self._waits.finish(want, now)
        if not lease.answered:  # a prefetch's: the lease has another owner now
            self._leases.end(lease)
            return False
        self._waits.answer(lease, event.request, isinstance(event, PeerRead))
        return True

    def end(self, lease: Lease | None, now: float) -> None:
        """The lease is over; a reader that waits under it gets what is there."""
        if lease is None:
            return
        if (want := self._waits.open.get(lease.lease_id)) is not None:
            self._waits.finish(want, now)
        self._leases.end(lease)

    def _prefetch_seconds(self, event: Prefetch) -> float:
        return min(max(event.lease_seconds, 0.0), self._limits.prefetch_seconds)
