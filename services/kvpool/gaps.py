"""Gaps: while a thread is away, its blocks that lie on disk alone are brought back shortly before it is expected.

They are there when the chance that the thread has returned by then reaches `prefetch_chance` (Hermes, algorithms.md
1.16: 0.1), and are held as for a Prefetch until its next call. Which blocks go to disk meanwhile is the retention
policy's business: it ranks by the same laws.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.common.agenda import Agenda
from services.common.laws import Law
from services.kvpool.changes import short
from services.kvpool.events import Prefetch
from services.kvpool.eviction import Costs
from services.kvpool.leases import Leases
from services.kvpool.limits import Limits
from services.kvpool.places import DRAM, SSD
from services.kvpool.readers import Readers
from services.kvpool.tree import Chain

_NOBODY = 0
"""Request that nobody waits for."""


@dataclass(slots=True, eq=False)
class Gap:
    """An idle thread, on the agenda for when its blocks are to be brought."""

    chain: Chain


class Gaps:
    """Off while `prefetch_chance` is 0. The agenda gives each Gap back when it is due."""

    def __init__(self, limits: Limits, costs: Costs, readers: Readers, leases: Leases, agenda: Agenda[object]) -> None:
        self._limits = limits
        self._costs = costs
        self._readers = readers
        self._leases = leases
        self._agenda = agenda
        self._open: dict[str, Gap] = {}

    def begin(self, chains: Iterable[Chain], now: float) -> None:
        """These threads are idle, or something new is believed of their return."""
        if not self._limits.prefetch_chance:
            return
        for chain in chains:
            thread = chain.thread
            self._strike(thread.thread_id)
            if thread.num_running or thread.returns is None or not chain.node.keys:
                continue
            seconds = self._seconds(chain, chain.node.end)
            wait = due_in(thread.returns, now - thread.idle_since, seconds, self._limits.prefetch_chance)
            if wait is not None:
                gap = self._open[thread.thread_id] = Gap(chain)
                self._agenda.set(gap, now + wait)

    def end(self, chain: Chain | None, now: float) -> None:
        """The thread's call came: it holds what it wants by its own lease."""
        if chain is not None and self._limits.prefetch_chance:
            self._strike(chain.thread.thread_id)
            self._readers.end(self._leases.held.get(_lease_of(chain)), now)

    def due(self, gap: Gap) -> Prefetch | None:
        """What to bring now."""
        chain = gap.chain
        if self._open.pop(chain.thread.thread_id, None) is not gap or chain.forgotten or not chain.node.keys:
            return None
        missing = sum(len(node.keys) - node.num_held[DRAM] for node in chain.tree.path(chain.node, 0))
        if not missing or not any(node.num_held[SSD] for node in chain.tree.path(chain.node, 0)):
            return None
        tip = short(chain.node.keys[-1])
        handle = (chain.tree.space.namespace_id, tip, chain.node.end, None)
        return Prefetch(_NOBODY, *handle, _lease_of(chain), self._limits.prefetch_seconds)

    def _seconds(self, chain: Chain, num_blocks: int) -> float:
        num_bytes = num_blocks * chain.tree.space.block_bytes
        return self._costs.reload_seconds(num_bytes, "ssd") + self._limits.prefetch_lead_seconds

    def _strike(self, thread_id: str) -> None:
        if (gap := self._open.pop(thread_id, None)) is not None:
            self._agenda.discard(gap)


def due_in(law: Law, elapsed: float, seconds: float, chance: float) -> float | None:
    """How long it may wait to begin what takes `seconds` and is to be done when the chance that it was needed reaches
    `chance`; None: it never does. To the grid of the law's horizons, on its late side."""
    for tau in law.horizons(elapsed):
        if law.cdf(tau, elapsed) >= chance:
            return max(0.0, tau - seconds)
    return None


def _lease_of(chain: Chain) -> str:
    return f"gap:{chain.thread.thread_id}"
