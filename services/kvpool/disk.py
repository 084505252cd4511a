"""Disk: what moves between DRAM and the disk tier.

Blocks are written when they are about to leave DRAM and are worth it, ahead of need: from `high_fraction` on down to
`low_fraction`, or because someone demotes a program. They leave DRAM once they are written, unless they were used
meanwhile. Blocks read from the disk stay there too: a clean copy costs nothing to evict. A disk that is full is left
alone for a while; one that fails is given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

from services.common.agenda import Agenda
from services.kvpool.actions import Action, DiskBlock, ReadDisk, WriteDisk
from services.kvpool.counts import Counts
from services.kvpool.events import DiskRead, DiskUnusable, DiskWritten
from services.kvpool.eviction import Candidate, Eviction, Ranking, Stage, tail
from services.kvpool.limits import Limits
from services.kvpool.namespace import Namespace
from services.kvpool.places import DRAM, SSD, Hold, Places
from services.kvpool.tree import Chain, Node


@dataclass(slots=True, eq=False)
class WriteJob(Hold):
    """Blocks on their way to disk."""

    namespace: Namespace
    blocks: list[DiskBlock]
    leaving: bool
    """They leave DRAM then."""
    started: float


@dataclass(slots=True, eq=False)
class ReadJob(Hold):
    """Blocks on their way to DRAM, the first `num_done` of them settled."""

    namespace: Namespace
    blocks: list[DiskBlock]
    num_done: int = 0


class Disk:
    """`agenda` calls back with this object when a full disk may be tried again."""

    def __init__(
        self,
        limits: Limits,
        places: Places,
        eviction: Eviction,
        namespaces: dict[str, Namespace],
        agenda: Agenda[object],
        counts: Counts,
        actions: list[Action],
        jobs: "count[int]",
    ) -> None:
        self.writes: dict[int, WriteJob] = {}
        self.reads: dict[int, ReadJob] = {}
        self.failed = False
        self._limits = limits
        self._places = places
        self._eviction = eviction
        self._namespaces = namespaces
        self._agenda = agenda
        self._counts = counts
        self._actions = actions
        self._jobs = jobs
        self._writing: set[int] = set()  # offsets in DRAM
        self._leaving_bytes = 0
        self._stuck_at = inf  # use of DRAM at which nothing could be moved; inf: not stuck
        eviction.saves = places.slots[SSD].capacity_bytes > 0

    def fetch(self, namespace: Namespace, tip: Node, start: int, end: int, now: float) -> list[int]:
        """Begin to read what is on disk alone, from `start` to `end` on the way to `tip`, as far as there is room.
        Returns the positions of what is being read, by this or before."""
        found: list[tuple[Node, int]] = []
        positions: list[int] = []
        for node in namespace.tree.path(tip, start):
            if node.num_held[DRAM] == len(node.keys):
                continue
            for at in range(max(0, start - node.first), min(len(node.keys), end - node.first)):
                if node.places[DRAM][at] < 0:
                    positions.append(node.first + at)
                    if node.keys[at] not in namespace.incoming:
                        found.append((node, at))
        if self.failed or not found:
            return positions
        num_bytes = namespace.space.block_bytes
        hold = Hold()
        hold.pin(tip)
        self._eviction.make_room(num_bytes, len(found), now)
        offsets = self._places.slots[DRAM].take(num_bytes, len(found))
        for part in range(0, len(offsets), step := max(1, self._limits.disk_job_bytes // num_bytes)):
            self._read(namespace, found[part : min(part + step, len(offsets))], offsets[part : part + step])
        self._places.end(hold)
        return positions

    def _read(self, namespace: Namespace, found: Sequence[tuple[Node, int]], offsets: Sequence[int]) -> None:
        blocks = [
            _block(node, at, offset, node.places[SSD][at]) for (node, at), offset in zip(found, offsets, strict=True)
        ]
        job = ReadJob(namespace, blocks)
        for node, _ in found:
            job.pin(node)
        namespace.incoming.update((block.key, block.position) for block in blocks)
        self.reads[job_id := next(self._jobs)] = job
        space = namespace.space
        self._actions.append(ReadDisk(job_id, space.namespace_id, space.num_shards, space.shard_bytes, blocks))

    def on_read(self, event: DiskRead) -> None:
        """Blocks came, or did not."""
        job = self.reads.get(event.job)
        if job is None:
            return
        told = list(event.ok)
        if event.done:
            told += [False] * (len(job.blocks) - job.num_done - len(told))
        for block, ok in zip(job.blocks[job.num_done :], told, strict=False):
            job.num_done += 1
            self._settle_read(job.namespace, block, ok)
        if job.num_done == len(job.blocks) or event.done:
            del self.reads[event.job]
            self._places.end(job)

    def _settle_read(self, namespace: Namespace, block: DiskBlock, ok: bool) -> None:
        del namespace.incoming[block.key]
        tree = namespace.tree
        node = tree.find(block.key, block.position)
        at = block.position - node.first if node is not None else 0
        same = node is not None and node.places[SSD][at] == block.disk_offset
        if node is not None and same and ok and node.places[DRAM][at] < 0:
            tree.place(node, at, DRAM, block.arena_offset)
            self._counts.read_bytes[SSD] += namespace.space.block_bytes
            self._counts.written_bytes[DRAM] += namespace.space.block_bytes
        else:
            self._places.slots[DRAM].free(block.arena_offset)
        if node is not None and same and not ok:
            self._counts.num_corrupt += 1
            if node.places[DRAM][at] < 0:
                self._eviction.reasons["corrupt"] += tree.cut(node, at)
            else:
                self._eviction.reasons["corrupt"] += tree.unplace(node, SSD, at, at + 1)
        namespace.miss([block.key])

    def balance(self, now: float) -> None:
        """Write what is worth least, and drop what is worth nothing, when DRAM is nearly full."""
        slots = self._places.slots[DRAM]
        used = slots.used_bytes - self._leaving_bytes
        if not self._eviction.saves or used <= slots.capacity_bytes * self._limits.high_fraction:
            self._stuck_at = inf
            return
        batch = slots.capacity_bytes * self._limits.batch_fraction
        if self._leaving_bytes * 2 > self._limits.disk_writing_bytes or abs(used - self._stuck_at) < batch:
            return
        goal = used - slots.capacity_bytes * self._limits.low_fraction
        ranking = Ranking(self._eviction, DRAM, now)
        moved = False
        while goal > 0 and self._leaving_bytes < self._limits.disk_writing_bytes:
            candidate = ranking.peek()
            if candidate is None or candidate.stage is Stage.RUNNING:
                break
            ranking.pop()
            num_bytes = self._move(candidate, goal, now)
            moved = moved or num_bytes > 0
            goal -= num_bytes
            ranking.add(candidate.node.parent)
        self._stuck_at = inf if moved else used

    def _move(self, candidate: Candidate, goal: float, now: float) -> int:
        """Let the tail of a leaf leave DRAM, about `goal` bytes. Returns how many go, now or when they are written."""
        node, num_bytes = candidate.node, candidate.node.tree.space.block_bytes
        wanted = max(1, int(goal // num_bytes))
        lose = candidate.stage is Stage.NOBODYS or candidate.rank <= 0
        before = node.num_held[DRAM]
        start = tail(node, wanted, lose)
        reason = self._eviction.reason(candidate, DRAM)
        if start < len(node.keys):
            self._eviction.leave_dram(node, start, reason)
        gone = before - node.num_held[DRAM]
        if not lose and gone < wanted and node.num_held[DRAM]:
            worth = (candidate.stage, candidate.rank)
            start = tail(node, wanted - gone, lose=True)
            gone += self.save(node, start, worth, now, leaving=True)
        return gone * num_bytes

    def save(self, node: Node, start: int, worth: tuple[Stage, float], now: float, *, leaving: bool) -> int:
        """Begin to write the node's blocks from `start` on that are in DRAM alone, as far as there is room on disk that
        is worth less. Returns how many."""
        dram, ssd = node.places
        found = [
            at for at in range(start, len(node.keys)) if ssd[at] < 0 and dram[at] >= 0 and dram[at] not in self._writing
        ]
        if not found or not self._eviction.saves:
            return 0
        namespace, num_bytes = self._namespaces[node.tree.space.namespace_id], node.tree.space.block_bytes
        hold = Hold()
        hold.pin(node)
        self._drop_strays(num_bytes, len(found))
        self._eviction.make_disk_room(num_bytes, len(found), worth, now)
        offsets = self._places.slots[SSD].take(num_bytes, len(found))
        blocks = [_block(node, at, dram[at], offset) for at, offset in zip(found, offsets, strict=False)]
        for part in range(0, len(blocks), step := max(1, self._limits.disk_job_bytes // num_bytes)):
            self._write(namespace, node, blocks[part : part + step], leaving, now)
        self._places.end(hold)
        return len(blocks)

    def _write(self, namespace: Namespace, node: Node, blocks: list[DiskBlock], leaving: bool, now: float) -> None:
        job = WriteJob(namespace, blocks, leaving, now)
        job.pin(node)
        self._writing.update(block.arena_offset for block in blocks)
        self.writes[job_id := next(self._jobs)] = job
        space = namespace.space
        if leaving:
            self._leaving_bytes += len(blocks) * space.block_bytes
        shape = (space.namespace_id, space.num_shards, space.shard_bytes, space.block_tokens)
        self._actions.append(WriteDisk(job_id, *shape, blocks))

    def on_written(self, event: DiskWritten) -> None:
        """A write ended."""
        job = self.writes.pop(event.job, None)
        if job is None:
            return
        self._places.end(job)
        tree, num_bytes = job.namespace.tree, job.namespace.space.block_bytes
        told = [*event.written, *([False] * len(job.blocks))]
        for block, written in reversed(list(zip(job.blocks, told, strict=False))):
            self._writing.discard(block.arena_offset)
            node = tree.find(block.key, block.position)
            if not written:
                self._places.slots[SSD].free(block.disk_offset)
            elif node is None or node.places[DRAM][block.position - node.first] != block.arena_offset or self.failed:
                self._places.vacate(SSD, block.disk_offset, ())
            else:
                tree.place(node, block.position - node.first, SSD, block.disk_offset)
                self._counts.written_bytes[SSD] += num_bytes
                if job.leaving:
                    self._leave(node, block.position - node.first, job.started)
        if job.leaving:
            self._leaving_bytes -= len(job.blocks) * num_bytes
        self._stuck_at = inf

    def _leave(self, node: Node, at: int, started: float) -> None:
        """A block that is on disk now leaves DRAM, if nobody took an interest in it meanwhile."""
        if node.segment.last_used <= started and all(isinstance(hold, WriteJob) for hold in node.holds):
            self._eviction.reasons[self._eviction.name] += node.tree.unplace(node, DRAM, at, at + 1)

    def demote(self, chains: Sequence[Chain], now: float) -> int:
        """Write the chains' blocks to disk; what no other program uses, and no call now, leaves DRAM. Returns how many
        blocks are on their way, or went."""
        num_blocks = 0
        for chain in chains:
            for node in reversed(chain.tree.path(chain.node, 0)):
                num_blocks += self._demote(node, chain, now)
        return num_blocks

    def _demote(self, node: Node, chain: Chain, now: float) -> int:
        pressure = self._eviction.pressure(DRAM, [node], now)
        stage, rank = self._eviction.judge(node, DRAM, now, pressure)
        alone = set(node.users) == {chain.program.program_id} and not chain.program.num_running
        num_blocks = 0
        if alone and all(isinstance(hold, WriteJob) for hold in node.holds) and self._eviction.saves:
            dram, ssd = node.places
            for at in range(len(node.keys) - 1, -1, -1):
                if dram[at] >= 0 and ssd[at] >= 0:
                    num_blocks += node.tree.unplace(node, DRAM, at, at + 1)
            self._eviction.reasons["demoted"] += num_blocks
        return num_blocks + self.save(node, 0, (max(stage, Stage.IDLE), rank), now, leaving=alone)

    def unusable(self, event: DiskUnusable, now: float) -> None:
        """The disk is full, or fails."""
        self._eviction.saves = False
        if event.full:
            self._agenda.set(self, now + self._limits.disk_retry_seconds)
            return
        self.failed = True
        self._agenda.discard(self)
        for namespace in self._namespaces.values():
            self._drop_strays_of(namespace)
            nodes = [namespace.tree.root]
            for node in nodes:
                at = node.places[DRAM].index(-1) if node.num_held[DRAM] < len(node.keys) else len(node.keys)
                if at < len(node.keys):
                    self._eviction.reasons["disk_failed"] += node.tree.cut(node, at)
                self._eviction.reasons["disk_failed"] += node.tree.unplace(node, SSD, 0, at)
                nodes.extend(node.children.values())

    def retry(self) -> None:
        """A full disk may have room again."""
        self._eviction.saves = not self.failed

    def _drop_strays(self, num_bytes: int, num_blocks: int) -> None:
        slots = self._places.slots[SSD]
        for namespace in self._namespaces.values():
            if not namespace.strays or slots.num_free(num_bytes) >= num_blocks:
                continue
            self._drop_strays_of(namespace)

    def _drop_strays_of(self, namespace: Namespace) -> None:
        for entries in namespace.strays.values():
            for entry in entries:
                self._places.vacate(SSD, entry.offset, ())
                self._eviction.reasons["stray"] += 1
        namespace.strays.clear()


def _block(node: Node, at: int, arena_offset: int, disk_offset: int) -> DiskBlock:
    above = node if at or node.parent is None else node.parent
    parent = above.keys[at - 1] if above.keys else b""  # the last one of the node above
    return DiskBlock(node.keys[at], parent, node.first + at, arena_offset, disk_offset, node.sums[at])
