"""Reservations: room for blocks that workers are about to write.

A block that is being stored is known by its key: the first shard's writer gets the slot, the writers of other shards
join it, a second writer of a shard is not wanted. The block is readable when all its shards are committed. A
reservation that is not committed in time lapses; a block whose shards do not all come is given up. Whoever still
writes to a lapsed place is found out by the checksums.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from services.common.agenda import Agenda
from services.kvpool.actions import NO_ROOM
from services.kvpool.counts import Counts
from services.kvpool.events import BeginStore
from services.kvpool.eviction import Eviction
from services.kvpool.limits import Limits
from services.kvpool.namespace import Namespace, Run
from services.kvpool.places import DRAM, Hold, Places
from services.kvpool.programs import Programs
from services.kvpool.tree import Chain

_MOST_COMMITTED = 4096
"""Reservations remembered, so that a repeated Commit gets the same answer."""


@dataclass(slots=True, eq=False)
class Pending:
    """A block that is not whole yet."""

    key: bytes
    parent: bytes
    position: int
    offset: int
    writers: dict[int, str] = field(default_factory=dict[int, str])
    """Reservation that will bring the shard."""
    sums: dict[int, int] = field(default_factory=dict[int, int])
    """Checksums of the shards that are there."""
    wait_until: float = 0.0
    """For shards that nobody writes now."""


@dataclass(slots=True, eq=False)
class Reservation(Hold):
    """One shard of some blocks, for one writer."""

    reservation_id: str
    namespace: Namespace
    shard: int
    chain: Chain | None
    reason: str
    """Why nobody needs what is stored, when that is so."""
    blocks: list[Pending]


@dataclass(slots=True, eq=False)
class Partial:
    """Blocks that miss shards nobody has reserved."""

    namespace: Namespace
    blocks: list[Pending]


class Reservations:
    """`agenda` calls back with Reservation and Partial keys."""

    def __init__(
        self,
        limits: Limits,
        places: Places,
        eviction: Eviction,
        programs: Programs,
        agenda: Agenda[object],
        counts: Counts,
        life: str,
    ) -> None:
        self.open: dict[str, Reservation] = {}
        self._life = life
        self._limits = limits
        self._places = places
        self._eviction = eviction
        self._programs = programs
        self._agenda = agenda
        self._counts = counts
        self._ids = count(1)
        self._committed: OrderedDict[str, int] = OrderedDict()

    def begin(self, namespace: Namespace, event: BeginStore, now: float) -> tuple[str, list[int]]:
        """The reservation's id, and an offset for each block asked for; "" and nothing but NO_ROOM if there is none."""
        offsets = [NO_ROOM] * len(event.hashes)
        if not namespace.follows(event.parent_hash, event.first_block):
            return "", offsets
        chain = self._programs.chain(event.user, namespace.tree, now)
        reason = "released" if chain is None and event.user.program_id else ""
        reservation = Reservation(f"{self._life}r{next(self._ids)}", namespace, event.shard, chain, reason, [])
        reservation.pin(namespace.tree.index.get(event.parent_hash))
        new = self._join(reservation, event, offsets)
        if new:
            size = namespace.space.block_bytes
            thread = chain.thread if chain is not None else None
            worth = self._eviction.worth(namespace.tree, event.first_block + new[0], len(new), thread, now)
            self._eviction.make_room(size, len(new), now, worth)
            for at, offset in zip(new, self._places.slots[DRAM].take(size, len(new)), strict=False):
                offsets[at] = offset
                parent = event.hashes[at - 1] if at else event.parent_hash
                block = Pending(event.hashes[at], parent, event.first_block + at, offset)
                block.writers[event.shard] = reservation.reservation_id
                namespace.pending[block.key] = block
                reservation.blocks.append(block)
        if not reservation.blocks:
            self._places.end(reservation)
            return "", offsets
        reservation.blocks.sort(key=lambda block: block.position)
        self.open[reservation.reservation_id] = reservation
        self._agenda.set(reservation, now + min(max(event.seconds, 0.0), self._limits.reservation_seconds))
        return reservation.reservation_id, offsets

    def _join(self, reservation: Reservation, event: BeginStore, offsets: list[int]) -> list[int]:
        """Join what others store; pin what is here; return which blocks are new."""
        namespace, shard = reservation.namespace, event.shard
        tree, pending = namespace.tree, namespace.pending
        new: list[int] = []
        for at, key in enumerate(event.hashes):
            block = pending.get(key)
            if block is not None:
                if shard not in block.writers and shard not in block.sums:
                    block.writers[shard] = reservation.reservation_id
                    reservation.blocks.append(block)
                    offsets[at] = block.offset
            elif (node := tree.find(key, event.first_block + at)) is not None:
                if node.places[DRAM][event.first_block + at - node.first] < 0 and key not in namespace.incoming:
                    new.append(at)
                reservation.pin(node)
            elif key not in tree.index and not namespace.coming(key):
                new.append(at)
        return new

    def commit(self, reservation_id: str, checksums: Sequence[int], now: float) -> int | None:
        """How many blocks are whole now; None: the reservation has lapsed. Raises ValueError for a wrong number of
        checksums."""
        reservation = self.open.get(reservation_id)
        if reservation is None:
            return self._committed.get(reservation_id)
        if len(checksums) != len(reservation.blocks):
            raise ValueError(f"{len(checksums)} checksums for {len(reservation.blocks)} blocks")
        namespace, shard, num_shards = reservation.namespace, reservation.shard, reservation.namespace.space.num_shards
        runs: list[Run] = []
        partial: list[Pending] = []
        for block, checksum in zip(reservation.blocks, checksums, strict=True):
            del block.writers[shard]
            block.sums[shard] = checksum
            if len(block.sums) < num_shards:
                partial.append(block)
                continue
            del namespace.pending[block.key]
            if not runs or runs[-1].keys[-1] != block.parent:
                runs.append(Run(block.parent, block.position, [], [], [], reservation.chain, reservation.reason))
            run = runs[-1]
            run.keys.append(block.key)
            run.offsets.append(block.offset)
            run.sums.append(tuple(block.sums[shard] for shard in range(num_shards)))
        self._wait(namespace, partial, now)
        for run in runs:
            namespace.land(run, now)
        num_blocks = sum(len(run.keys) for run in runs)
        self._counts.written_bytes[DRAM] += len(reservation.blocks) * namespace.space.shard_bytes
        self._close(reservation)
        self._committed[reservation_id] = num_blocks
        if len(self._committed) > _MOST_COMMITTED:
            self._committed.popitem(last=False)
        return num_blocks

    def end(self, reservation: Reservation, now: float) -> None:
        """It was aborted, or has lapsed."""
        partial: list[Pending] = []
        lost: list[Pending] = []
        for block in reservation.blocks:
            del block.writers[reservation.shard]
            if not block.writers:
                (partial if block.sums else lost).append(block)
        self._drop(reservation.namespace, lost)
        self._wait(reservation.namespace, partial, now)
        self._close(reservation)

    def give_up(self, partial: Partial, now: float) -> None:
        """The missing shards did not come."""
        namespace = partial.namespace
        self._drop(
            namespace,
            [
                block
                for block in partial.blocks
                if namespace.pending.get(block.key) is block and not block.writers and block.wait_until <= now
            ],
        )

    def _wait(self, namespace: Namespace, blocks: list[Pending], now: float) -> None:
        left = [block for block in blocks if not block.writers]
        for block in left:
            block.wait_until = now + self._limits.reservation_seconds
        if left:
            self._agenda.set(Partial(namespace, left), now + self._limits.reservation_seconds)

    def _drop(self, namespace: Namespace, blocks: list[Pending]) -> None:
        for block in blocks:
            del namespace.pending[block.key]
            self._places.slots[DRAM].free(block.offset)
        namespace.miss([block.key for block in blocks])

    def _close(self, reservation: Reservation) -> None:
        del self.open[reservation.reservation_id]
        self._agenda.discard(reservation)
        self._places.end(reservation)
