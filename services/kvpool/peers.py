"""Peers: blocks that are copied from other pools.

A pull brings what extends the prefix that is here; what comes late still lands. Keys that only a peer knows are asked
for first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from services.kvpool.actions import Action, Pull, ResolvePeer
from services.kvpool.changes import short
from services.kvpool.counts import Counts
from services.kvpool.events import PeerResolved, Prefetch, Pulled, Replica
from services.kvpool.eviction import Eviction
from services.kvpool.limits import Limits
from services.kvpool.namespace import Namespace, Run
from services.kvpool.places import DRAM, Hold, Places
from services.kvpool.tree import Chain, Node


@dataclass(slots=True, eq=False)
class PullJob(Hold):
    """Blocks on their way, the first `num_done` of them settled."""

    namespace: Namespace
    parent: bytes
    first: int
    keys: Sequence[bytes]
    offsets: list[int]
    chain: Chain | None
    num_done: int = 0


class Peers:
    """See the module."""

    def __init__(
        self,
        limits: Limits,
        places: Places,
        eviction: Eviction,
        counts: Counts,
        actions: list[Action],
        jobs: "count[int]",
    ) -> None:
        self.pulls: dict[int, PullJob] = {}
        self.resolves: dict[int, Prefetch] = {}
        self._limits = limits
        self._places = places
        self._eviction = eviction
        self._counts = counts
        self._actions = actions
        self._jobs = jobs

    def pull(
        self,
        namespace: Namespace,
        hashes: Sequence[bytes],
        tip: Node,
        replica: Replica,
        chain: Chain | None,
        deadline_seconds: float,
        now: float,
    ) -> tuple[int, int]:
        """Begin to copy what the replica has behind `tip`. Returns the stretch that comes, by this or before."""
        begin = tip.end
        end = min(replica.num_blocks, len(hashes))
        first = begin
        while first < end and namespace.coming(hashes[first]):
            first += 1
        last = first
        while last < end and not namespace.coming(hashes[last]):
            last += 1
        if first >= last:
            return begin, first
        num_bytes = namespace.space.block_bytes
        parent = hashes[first - 1] if first else b""
        job = PullJob(namespace, parent, first, [], [], chain)
        job.pin(tip)
        self._eviction.make_room(num_bytes, last - first, now)
        job.offsets = self._places.slots[DRAM].take(num_bytes, last - first)
        last = first + len(job.offsets)
        if first == last:
            self._places.end(job)
            return begin, first
        job.keys = hashes[first:last]
        namespace.incoming.update(zip(job.keys, count(first)))
        self.pulls[job_id := next(self._jobs)] = job
        space = namespace.space
        shape = (space.namespace_id, space.num_shards, space.shard_bytes)
        prefix = hashes[:last]
        self._actions.append(Pull(job_id, replica, *shape, prefix, first, list(job.offsets), deadline_seconds))
        return begin, last

    def on_pulled(self, event: Pulled, now: float) -> None:
        """Blocks came, or no more will."""
        job = self.pulls.get(event.job)
        if job is None:
            return
        namespace, num_shards = job.namespace, job.namespace.space.num_shards
        start, end = job.num_done, job.num_done + event.num_blocks
        right = end <= len(job.keys) and len(event.checksums) == event.num_blocks * num_shards
        if right and event.num_blocks:
            sums = [event.checksums[at : at + num_shards] for at in range(0, len(event.checksums), num_shards)]
            keys = list(job.keys[start:end])
            for key in keys:
                del namespace.incoming[key]
            job.num_done = end
            self._counts.num_pulled += len(keys)
            self._counts.written_bytes[DRAM] += len(keys) * namespace.space.block_bytes
            parent = job.keys[start - 1] if start else job.parent
            namespace.land(Run(parent, job.first + start, keys, job.offsets[start:end], sums, job.chain), now)
        if event.done or not right:
            self._finish(event.job, job)

    def _finish(self, job_id: int, job: PullJob) -> None:
        del self.pulls[job_id]
        for key, offset in zip(job.keys[job.num_done :], job.offsets[job.num_done :], strict=True):
            del job.namespace.incoming[key]
            self._places.slots[DRAM].free(offset)
        self._places.end(job)
        job.namespace.miss(job.keys[job.num_done :])

    def resolve(self, event: Prefetch, replica: Replica) -> None:
        """Ask which chain it is."""
        self.resolves[job_id := next(self._jobs)] = event
        handle = (event.namespace_id, event.tip, event.num_blocks)
        self._actions.append(ResolvePeer(job_id, replica, *handle, 0, self._limits.acquire_seconds))

    def on_resolved(self, event: PeerResolved) -> Prefetch | None:
        """The prefetch that asked, if the answer is one."""
        asked = self.resolves.pop(event.job, None)
        if asked is None or len(event.hashes) != asked.num_blocks or not event.hashes:
            return None
        return asked if short(event.hashes[-1]) == asked.tip else None
