"""Eviction: what leaves a tier.

The leaves of the trees are judged together: first what is nobody's, then by the policy's rank, and only then what
running calls use; held nodes never. Of a node the last blocks leave first. Ranks are computed once for a batch of room,
and for those that become leaves meanwhile.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from itertools import count
from math import inf
from typing import Literal, NamedTuple, Protocol

from services.kvpool.limits import Limits
from services.kvpool.places import DRAM, SSD, Places
from services.kvpool.retention import Policy, selective
from services.kvpool.segment import Pressure, Segment, Thread
from services.kvpool.tree import Node, Tree


class Costs(Protocol):
    """What it takes to have KV again (cost.py)."""

    def recompute_seconds(self, first_token: int, num_tokens: int) -> float: ...

    def reload_seconds(self, num_bytes: int, source: Literal["dram", "ssd", "peer"]) -> float: ...


class Stage(IntEnum):
    """What goes before what, whatever its rank."""

    NOBODYS = 0
    IDLE = 1
    RUNNING = 2
    """What the policy ranks infinite, for the sake of calls that run."""


class Candidate(NamedTuple):
    """A leaf, judged. A tuple, for these are compared a lot; `sequence` differs, so nodes never are."""

    stage: Stage
    rank: float
    last_used: float
    sequence: int
    node: Node


class Ranking:
    """Leaves of one tier, the least worth first."""

    def __init__(self, eviction: Eviction, tier: int, now: float) -> None:
        self._eviction = eviction
        self._tier = tier
        self._now = now
        self._sequence = count()
        leaves = [node for tree in eviction.trees() for node in tree.leaves[tier] if not node.holds]
        self._pressure = eviction.pressure(tier, leaves, now)
        self._heap = [self._judge(node) for node in leaves]
        heapq.heapify(self._heap)

    def peek(self) -> Candidate | None:
        """The least of those left."""
        return self._heap[0] if self._heap else None

    def pop(self) -> Candidate:
        """Take it out."""
        return heapq.heappop(self._heap)

    def add(self, node: Node | None) -> None:
        """The node, or the next one above it with blocks in the tier, may have become a leaf."""
        while node is not None and not node.num_held[self._tier]:
            node = node.parent
        if node is not None and node in node.tree.leaves[self._tier] and not node.holds:
            heapq.heappush(self._heap, self._judge(node))

    def put_back(self, candidates: Iterable[Candidate]) -> None:
        """Candidates that were passed over."""
        for candidate in candidates:
            heapq.heappush(self._heap, candidate)

    def _judge(self, node: Node) -> Candidate:
        stage, rank = self._eviction.judge(node, self._tier, self._now, self._pressure)
        return Candidate(stage, rank, node.segment.last_used, next(self._sequence), node)


class Eviction:
    """`floors` hold, by tier, the rank of what was evicted last; `reasons` count blocks that left a tier."""

    def __init__(self, policy: Policy, costs: Costs, limits: Limits, places: Places, trees: dict[str, Tree]) -> None:
        self.floors = [0.0, 0.0]
        self.reasons: Counter[str] = Counter()
        self.name = type(policy).__module__.rsplit(".", 1)[-1]
        self.saves = False
        """What leaves DRAM is written to disk first."""
        self._policy = policy
        self._costs = costs
        self._limits = limits
        self._places = places
        self._trees = trees

    def trees(self) -> Iterable[Tree]:
        return self._trees.values()

    def pressure(self, tier: int, leaves: list[Node], now: float) -> Pressure:
        """Of the tier."""
        slots = self._places.slots[tier]
        return Pressure(
            used_fraction=slots.used_bytes / max(1, slots.capacity_bytes),
            floor=self.floors[tier],
            longest_idle_seconds=now - min((node.segment.last_used for node in leaves), default=now),
            largest_bytes=max((node.num_held[tier] * node.tree.space.block_bytes for node in leaves), default=0),
        )

    def judge(self, node: Node, tier: int, now: float, pressure: Pressure) -> tuple[Stage, float]:
        """What the node's blocks in the tier are worth."""
        segment, space, held = node.segment, node.tree.space, node.num_held[tier]
        segment.first_block = node.first if tier == DRAM else node.end - held
        segment.num_blocks = held
        segment.num_bytes = held * space.block_bytes
        segment.num_tokens = held * space.block_tokens
        segment.floor = node.floors[tier]
        first_token = segment.first_block * space.block_tokens
        segment.recompute_seconds = self._costs.recompute_seconds(first_token, segment.num_tokens)
        on_disk = tier == DRAM and (self.saves or node.num_held[SSD] == len(node.keys))
        segment.reload_seconds = self._costs.reload_seconds(segment.num_bytes, "ssd") if on_disk else inf
        rank = self._policy.rank(segment, now, pressure)
        if node.reason:
            return Stage.NOBODYS, rank
        heard = now - segment.last_used < self._limits.running_seconds
        return Stage.RUNNING if rank == inf and heard else Stage.IDLE, rank

    def worth(self, tree: Tree, first: int, num_blocks: int, thread: Thread | None, now: float) -> float:
        """Rank that new blocks of a thread would have; infinite for a policy that stores all there is."""
        if not selective(self._policy):
            return inf
        segment = Segment(first, num_blocks, num_blocks * tree.space.block_bytes, 0, now, now)
        segment.num_tokens = num_blocks * tree.space.block_tokens
        segment.recompute_seconds = self._costs.recompute_seconds(first * tree.space.block_tokens, segment.num_tokens)
        if thread is not None:
            segment.threads[thread.thread_id] = thread
        return self._policy.rank(segment, now, self.pressure(DRAM, [], now))

    def make_room(self, num_bytes: int, num_blocks: int, now: float, worth: float = inf) -> None:
        """Free DRAM for so many blocks, as far as can be: what is on disk too or not worth writing goes first, then
        the rest, running calls' last. What ranks above `worth` stays."""
        slots = self._places.slots[DRAM]
        if slots.num_free(num_bytes) >= num_blocks:
            return
        batch = int(slots.capacity_bytes * self._limits.batch_fraction) // num_bytes
        ranking = Ranking(self, DRAM, now)
        passed: list[Candidate] = []
        while slots.num_free(num_bytes) < max(num_blocks, batch):
            candidate = ranking.peek()
            if candidate is None or candidate.stage is Stage.RUNNING or _stays(candidate, worth):
                break
            ranking.pop()
            if not self._free(candidate, num_bytes, max(num_blocks, batch), ranking, may_lose=not self.saves):
                passed.append(candidate)
        ranking.put_back(passed)
        while slots.num_free(num_bytes) < num_blocks and (candidate := ranking.peek()) is not None:
            if _stays(candidate, worth):
                break
            self._free(ranking.pop(), num_bytes, num_blocks, ranking, may_lose=True)

    def _free(self, candidate: Candidate, num_bytes: int, goal: int, ranking: Ranking, *, may_lose: bool) -> bool:
        """Evict the tail of a leaf from DRAM. False: nothing could go without being lost."""
        node = candidate.node
        if node.tree.space.block_bytes == num_bytes:
            wanted = goal - self._places.slots[DRAM].num_free(num_bytes)
        else:
            wanted = len(node.keys)
        lose = may_lose or candidate.stage is Stage.NOBODYS or candidate.rank <= 0
        start = tail(node, wanted, lose)
        if start == len(node.keys):
            return False
        self.leave_dram(node, start, self.reason(candidate, DRAM))
        if not lose and node.num_held[DRAM]:
            return False
        ranking.add(node)
        return True

    def leave_dram(self, node: Node, start: int, reason: str) -> None:
        """Blocks from `start` on leave DRAM; those that are nowhere else, and what extends them, leave the tree."""
        try:
            lost = node.places[SSD].index(-1, start)
        except ValueError:
            lost = len(node.keys)
        if lost < len(node.keys):
            self.reasons[reason] += node.tree.cut(node, lost)
        self.reasons[reason] += node.tree.unplace(node, DRAM, start, lost)

    def make_disk_room(self, num_bytes: int, num_blocks: int, worth: tuple[Stage, float], now: float) -> None:
        """Free disk for so many blocks by dropping what is worth less."""
        slots = self._places.slots[SSD]
        if slots.num_free(num_bytes) >= num_blocks:
            return
        goal = max(num_blocks, int(slots.capacity_bytes * self._limits.batch_fraction) // num_bytes)
        ranking = Ranking(self, SSD, now)
        while slots.num_free(num_bytes) < goal and (candidate := ranking.peek()) is not None:
            if (candidate.stage, candidate.rank) >= worth:
                return
            node = ranking.pop().node
            wanted = goal - slots.num_free(num_bytes) if node.tree.space.block_bytes == num_bytes else len(node.keys)
            if self._leave_disk(node, wanted, self.reason(candidate, SSD)):
                ranking.add(node)

    def _leave_disk(self, node: Node, wanted: int, reason: str) -> int:
        """The last blocks leave the disk, either copies of what is in DRAM, or what is nowhere else and is not extended
        by anything in DRAM. Returns how many."""
        dram, ssd = node.places
        bare = not node.num_below[DRAM]
        alone: bool | None = None
        num_left, start = 0, len(node.keys)
        for at in range(len(node.keys) - 1, -1, -1):
            if num_left == wanted:
                break
            if ssd[at] >= 0:
                if alone is None:
                    alone = dram[at] < 0
                if (dram[at] < 0) != alone or (alone and not bare):
                    break
                num_left += 1
                start = at
            bare = bare and dram[at] < 0
        if num_left:
            leave = node.tree.cut(node, start) if alone else node.tree.unplace(node, SSD, start, len(node.keys))
            self.reasons[reason] += leave
        return num_left

    def reason(self, candidate: Candidate, tier: int) -> str:
        """What it leaves the tier for; its rank is the price of room from now on."""
        if candidate.stage is Stage.NOBODYS:
            return candidate.node.reason
        self.floors[tier] = candidate.rank
        return self.name


def _stays(candidate: Candidate, worth: float) -> bool:
    return candidate.stage is not Stage.NOBODYS and candidate.rank > worth


def tail(node: Node, wanted: int, lose: bool) -> int:
    """Where the last `wanted` blocks in DRAM begin; without `lose` only those that are on disk too."""
    dram, ssd = node.places
    at = start = len(node.keys)
    while at and wanted:
        at -= 1
        if dram[at] >= 0:
            if ssd[at] < 0 and not lose:
                break
            wanted -= 1
            start = at
    return start
