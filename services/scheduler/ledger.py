"""Ledger: whose contexts live in one worker's KV, and what they count for.

A context counts in full while a call of it runs or is about to, and by its weight, the chance that it is wanted again
soon, while it is idle. What several contexts have in common counts once: the one that has it longest pays for it, the
others only for what lies beyond (prefixes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.common.agenda import Agenda
from services.common.laws import NEVER, Law
from services.scheduler.prefixes import Marks, Prefixes, depth

if TYPE_CHECKING:
    from services.scheduler.records import Call, Program, Worker

_LATEST = 0.1
"""Weight of the newest in a mean."""
Thread = tuple[str, str]
"""(agent, thread)."""


@dataclass(slots=True, eq=False)
class Context:
    """What a chain of calls holds in a worker's KV: prompt and output of its newest call."""

    program: Program
    thread: Thread
    ledger: Ledger
    call: Call | None
    """The one that runs or is about to; None: it is idle."""
    blocks: int = 0
    shared: int = 0
    """Of its prompt's blocks, those that others pay for."""
    marks: Marks = ()
    """Of its prompt."""
    kept_tokens: int = 0
    """When it was idle last."""
    ran: bool = False
    """A call of it was placed at this worker."""
    idle_since: float = 0.0
    returns: Law = NEVER
    """From then to its next call."""
    foreseen: tuple[Law, float] | None = None
    """The same as the workflow service says since, and from when on."""
    weight: float = 1.0
    """While it is idle."""

    @property
    def own_blocks(self) -> int:
        """What it pays for."""
        return self.blocks - self.shared

    def gap(self, now: float) -> tuple[Law, float]:
        """The law of what is left of its gap, and how long it has lasted already by that law."""
        law, since = self.foreseen or (self.returns, self.idle_since)
        return law, now - since


Row = dict[Context, None]
"""Contexts, oldest first."""


@dataclass(slots=True, eq=False)
class Ledger:
    """Of one worker. Changed by residents.py and lobby.py alone; policies read it."""

    worker: Worker
    open: bool = True
    """Contexts may stay here: it neither drains nor is for prefill alone."""
    num_live: int = 0
    """Contexts that are not idle."""
    num_idle: int = 0
    live_blocks: int = 0
    idle_blocks: int = 0
    weighed_blocks: float = 0.0
    """Of idle contexts, each by its weight."""
    num_weighed: float = 0.0
    """Idle contexts, each by its weight."""
    rested_since: float = 0.0
    """When the last live context went."""
    refill_seconds: float = 0.0
    """To compute all that its KV holds, or to bring it from its pool: what is known of it when contexts are weighed."""
    delay_seconds: float = 0.0
    """Mean time that programs which came back waited in the lobby before they were let in here."""
    cached_share: float = 1.0
    """Mean part of what contexts had here that was still in the engine's cache when they came back."""
    window: float = 0.0
    """Belongs to the admission policy."""
    adjusted_at: float = 0.0
    """When the policy was last asked to set it."""
    programs: dict[str, Row] = field(default_factory=dict[str, Row])
    prefixes: Prefixes[Context] = field(default_factory=Prefixes[Context])
    pausable: Agenda[Context] = field(default_factory=Agenda[Context])
    """Idle contexts, in the order in which the policy would send them off."""

    @property
    def worker_id(self) -> str:
        return self.worker.description.worker_id

    @property
    def model(self) -> str:
        return self.worker.description.model

    @property
    def num_blocks(self) -> int:
        return self.worker.description.num_blocks

    @property
    def block_size(self) -> int:
        return self.worker.description.block_size

    @property
    def taken_blocks(self) -> float:
        """What its residents count for."""
        return self.live_blocks + self.weighed_blocks

    def blocks_for(self, tokens: float) -> int:
        """That so many tokens need here."""
        return -(-int(tokens) // self.block_size)

    def enter(self, context: Context) -> None:
        """A context comes to live here."""
        context.ledger = self
        self.programs.setdefault(context.program.program_id, {})[context] = None
        context.blocks = max(context.blocks, depth(len(context.marks)))
        context.shared = self.prefixes.enter(context, context.marks)
        self._count(context, 1)

    def leave(self, context: Context) -> None:
        """It is gone from here; those that shared with it pay for themselves."""
        self._count(context, -1)
        row = self.programs[context.program.program_id]
        del row[context]
        if not row:
            del self.programs[context.program.program_id]
        for heir, blocks in self.prefixes.leave(context, context.marks):
            self._count(heir, -1)
            heir.shared -= blocks
            self._count(heir, 1)

    def resize(self, context: Context, blocks: int, marks: Marks) -> None:
        """The context grew, or is another than before."""
        if context.marks != marks:
            self.leave(context)
            context.blocks, context.marks = blocks, marks
            self.enter(context)
            return
        self._count(context, -1)
        context.blocks = max(blocks, depth(len(marks)))
        self._count(context, 1)

    def returned(self, context: Context, cached_tokens: int) -> None:
        """A call of it that had to do with what it kept ended, and found so many tokens in the engine's cache."""
        if context.kept_tokens:
            share = min(1.0, cached_tokens / context.kept_tokens)
            self.cached_share += _LATEST * (share - self.cached_share)

    def waited(self, seconds: float) -> None:
        """A program that came back was let in here after so long in the lobby."""
        self.delay_seconds += _LATEST * (seconds - self.delay_seconds)

    def turn(self, context: Context, call: Call | None, weight: float = 1.0) -> None:
        """It serves a call, or is idle and weighs so much."""
        self._count(context, -1)
        context.call, context.weight = call, weight
        self._count(context, 1)

    def _count(self, context: Context, sign: int) -> None:
        own = sign * context.own_blocks
        if context.call is not None:
            self.num_live += sign
            self.live_blocks += own
            return
        self.num_idle += sign
        self.idle_blocks += own
        self.weighed_blocks += own * context.weight
        self.num_weighed += sign * context.weight
        if not self.num_idle:
            self.weighed_blocks = self.num_weighed = 0.0  # whatever rounding left
