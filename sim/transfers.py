"""What a pool's core has done beside it: blocks to and from its disk, and pulls from other pools.

A pull reads from the other pool's core under a lease, as services/kvpool/transport does, and tells of what has come a
batch at a time. Every link and device carries one thing after the other. Nothing fails but for want of the other pool.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from services.kvpool import actions, events
from services.kvpool.core import Core
from sim.host import Host
from sim.lane import Lane
from sim.wire import Wire

BATCH_BYTES = 256 << 20
"""Copied at once."""

Work = actions.Pull | actions.ResolvePeer | actions.WriteDisk | actions.ReadDisk


class Peer(Protocol):
    """Another host's pool."""

    core: Core

    def lend(self, job: actions.Pull, borrower: "Transfers") -> None:
        """Let blocks be read; `borrower.receive` hears how many."""
        ...


class Transfers:
    """One pool's. `feed`: its core's driver."""

    def __init__(
        self, pool_id: str, host: Host, wire: Wire, peers: Mapping[str, Peer], feed: Callable[[events.Event], None]
    ) -> None:
        self.pool_id = pool_id
        self._block_bytes = host.block_bytes
        self._wire = wire
        self._peers = peers
        self._feed = feed
        self._pulls = Lane(wire.clock, host.network_speed)
        self._reads = Lane(wire.clock, host.ssd_read_speed)
        self._writes = Lane(wire.clock, host.ssd_write_speed)

    def begin(self, work: Work) -> None:
        """The core hears when it is done."""
        match work:
            case actions.Pull():
                self._pull(work)
            case actions.ResolvePeer():
                self._wire.send(self._resolve, work)
            case actions.WriteDisk():
                self._move(self._writes, len(work.blocks), events.DiskWritten(work.job, [True] * len(work.blocks)))
            case actions.ReadDisk():
                self._move(self._reads, len(work.blocks), events.DiskRead(work.job, [True] * len(work.blocks)))

    def receive(self, job: actions.Pull, count: int, done: Callable[[], None]) -> None:
        """So many blocks come from a peer, which is told when they have."""
        step = max(1, BATCH_BYTES // self._block_bytes)
        for start in range(0, max(1, count), step):
            size = min(step, count - start)
            self._move(self._pulls, size, events.Pulled(job.job, size, [0] * size, done=start + step >= count))
        self._pulls.carry(0, done)

    def _move(self, lane: Lane, num_blocks: int, then: events.Event) -> None:
        lane.carry(num_blocks * self._block_bytes, lambda: self._feed(then))

    def _pull(self, job: actions.Pull) -> None:
        peer = self._peers.get(job.replica.pool_id)
        if peer is None:
            self._feed(events.Pulled(job.job, 0, ()))
        else:
            self._wire.send(lambda asked: peer.lend(asked, self), job)

    def _resolve(self, job: actions.ResolvePeer) -> None:
        """What a peer knows, when the question has come there."""
        peer = self._peers.get(job.replica.pool_id)
        asked = (job.namespace_id, job.tip, job.num_blocks, job.first_block)
        hashes = peer.core.resolve(*asked) if peer is not None else []
        self._wire.send(self._feed, events.PeerResolved(job.job, hashes))
